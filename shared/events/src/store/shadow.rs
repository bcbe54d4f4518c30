//! SQL of tables that are built anew beside the live ones: made from the catalog, compared, and put in their place.
//!
//! Index and constraint names are of a schema, so in a schema of its own a shadow has the names that migrations expect.
//! Whatever a shadow could not take over shows in [`describe`], which must say the same of both, or nothing is swapped.

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use waybill_store::error::StoreError;

/// The most keys of differing rows that are named of each table.
const MOST_SAMPLES: i64 = 20;

/// Where the live tables are, where their shadows are, and which they are.
#[derive(Debug, Clone)]
pub(crate) struct Shadow {
    live: String,
    beside: String,
    tables: &'static [&'static str],
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Runs statements whose names are quoted, or were quoted by the server itself.
async fn run(conn: &mut PgConnection, sql: String) -> Result<(), StoreError> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await?;
    Ok(())
}

/// One table, compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Compared {
    pub table: &'static str,
    pub live_rows: i64,
    pub rebuilt_rows: i64,
    pub only_live: i64,
    pub only_rebuilt: i64,
    pub different: i64,
    /// The first differing rows: how, and their primary keys as JSON.
    pub samples: Vec<(String, String)>,
}

impl Shadow {
    pub fn new(live: &str, beside: &str, tables: &'static [&'static str]) -> Self {
        Shadow {
            live: live.to_owned(),
            beside: beside.to_owned(),
            tables,
        }
    }

    /// The live schema, quoted.
    pub fn live(&self) -> String {
        quoted(&self.live)
    }

    pub fn schema(&self) -> &str {
        &self.beside
    }

    fn table(&self, table: &str) -> String {
        format!("{}.{}", quoted(&self.beside), quoted(table))
    }

    fn live_table(&self, table: &str) -> String {
        format!("{}.{}", quoted(&self.live), quoted(table))
    }

    /// Whether the schema is there and may be written to.
    pub async fn is_usable(&self, conn: &mut PgConnection) -> Result<bool, StoreError> {
        Ok(sqlx::query_scalar(
            "SELECT coalesce((SELECT has_schema_privilege(oid, 'CREATE') AND has_schema_privilege(oid, 'USAGE')
                              FROM pg_namespace WHERE nspname = $1), false)",
        )
        .bind(&self.beside)
        .fetch_one(conn)
        .await?)
    }

    /// Only one at a time, as long as the session lives. False when another one has it.
    pub async fn lock(&self, conn: &mut PgConnection) -> Result<bool, StoreError> {
        Ok(
            sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtextextended($1, 0))")
                .bind(format!("waybill rebuild {}", self.beside))
                .fetch_one(conn)
                .await?,
        )
    }

    /// What SQL without a schema means from here on: the shadows where there are some, else the live tables.
    pub async fn look_here(&self, conn: &mut PgConnection) -> Result<(), StoreError> {
        let path = format!(
            "SET search_path = {}, {}",
            quoted(&self.beside),
            quoted(&self.live)
        );
        run(conn, path).await
    }

    async fn look_at_live(&self, conn: &mut PgConnection) -> Result<(), StoreError> {
        run(conn, format!("SET search_path = {}", quoted(&self.live))).await
    }

    /// Drops all that an earlier rebuild left, or this one.
    pub async fn clear(&self, conn: &mut PgConnection) -> Result<(), StoreError> {
        let tables: Vec<String> =
            sqlx::query_scalar("SELECT tablename::text FROM pg_tables WHERE schemaname = $1 ORDER BY 1")
                .bind(&self.beside)
                .fetch_all(&mut *conn)
                .await?;
        if tables.is_empty() {
            return Ok(());
        }
        let tables: Vec<String> = tables.iter().map(|table| self.table(table)).collect();
        run(conn, format!("DROP TABLE {}", tables.join(", "))).await
    }

    /// Why the live tables cannot be swapped: missing ones, partitions, and what else hangs on them.
    pub async fn obstacles(&self, conn: &mut PgConnection) -> Result<Vec<String>, StoreError> {
        Ok(sqlx::query_scalar(
            "WITH owned AS (
                 SELECT t.name, c.oid, c.relkind, c.relispartition, c.relhassubclass
                 FROM UNNEST($2::text[]) AS t (name)
                 LEFT JOIN pg_namespace n ON n.nspname = $1
                 LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.name
             )
             SELECT format('there is no table %s', name) FROM owned WHERE oid IS NULL
             UNION ALL
             SELECT format('%s is no plain table', name) FROM owned
             WHERE relkind <> 'r' OR relispartition OR relhassubclass
             UNION ALL
             SELECT format('%s has no primary key', name) FROM owned o
             WHERE oid IS NOT NULL
               AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = o.oid AND i.indisprimary)
             UNION ALL
             SELECT format('%s of %s refers to %s', k.conname, k.conrelid::regclass, o.name)
             FROM owned o JOIN pg_constraint k ON k.confrelid = o.oid AND k.contype = 'f'
             WHERE k.conrelid NOT IN (SELECT oid FROM owned WHERE oid IS NOT NULL)
             UNION ALL
             SELECT DISTINCT format('%s %s depends on %s', CASE c.relkind WHEN 'v' THEN 'view' ELSE 'relation' END,
                                    c.oid::regclass, o.name)
             FROM owned o
             JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = o.oid
                             AND d.classid = 'pg_rewrite'::regclass
             JOIN pg_rewrite r ON r.oid = d.objid
             JOIN pg_class c ON c.oid = r.ev_class AND c.oid <> o.oid
             UNION ALL
             SELECT format('a column of %s takes its values from a sequence (serial); make it an identity column', o.name)
             FROM owned o JOIN pg_attrdef a ON a.adrelid = o.oid
             WHERE pg_get_expr(a.adbin, a.adrelid) LIKE '%nextval(%'
             ORDER BY 1",
        )
        .bind(&self.live)
        .bind(self.tables)
        .fetch_all(conn)
        .await?)
    }

    /// All that the catalog says of the live tables, a line each, without the name of their schema.
    pub async fn describe_live(&self, conn: &mut PgConnection) -> Result<Vec<String>, StoreError> {
        self.look_at_live(conn).await?;
        let lines = describe(conn, &self.live, self.tables).await;
        self.look_here(conn).await?;
        lines
    }

    /// The same of the shadows.
    pub async fn describe(&self, conn: &mut PgConnection) -> Result<Vec<String>, StoreError> {
        describe(conn, &self.beside, self.tables).await
    }

    /// Makes empty shadows as the live tables are, and a table for events that are held back.
    pub async fn create(&self, conn: &mut PgConnection) -> Result<(), StoreError> {
        self.look_at_live(conn).await?;
        let later = statements(conn, &self.live, self.tables).await;
        self.look_here(conn).await?;
        let mut sql = format!(
            "CREATE TABLE {} (LIKE {} INCLUDING ALL);",
            self.table("fold_waiting"),
            self.live_table("fold_waiting")
        );
        for table in self.tables {
            sql.push_str(&format!(
                "CREATE TABLE {} (LIKE {} INCLUDING ALL EXCLUDING INDEXES EXCLUDING STATISTICS);",
                self.table(table),
                self.live_table(table)
            ));
        }
        for statement in later? {
            sql.push_str(&statement);
            sql.push(';');
        }
        let mut tx = conn.begin().await?;
        run(&mut tx, sql).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The tables outside of the shadow schema that the session has written to.
    pub async fn strays(&self, conn: &mut PgConnection) -> Result<Vec<String>, StoreError> {
        Ok(sqlx::query_scalar(
            "SELECT format('%s.%s', schemaname, relname) FROM pg_stat_xact_user_tables
             WHERE schemaname <> $1 AND n_tup_ins + n_tup_upd + n_tup_del > 0 ORDER BY 1",
        )
        .bind(&self.beside)
        .fetch_all(conn)
        .await?)
    }

    /// Whether the server counts what [`Shadow::strays`] reads.
    pub async fn counts(&self, conn: &mut PgConnection) -> Result<bool, StoreError> {
        Ok(
            sqlx::query_scalar("SELECT current_setting('track_counts')::boolean")
                .fetch_one(conn)
                .await?,
        )
    }

    /// Lets the planner know the shadows, so that queries are as fast after the swap as before.
    pub async fn analyze(&self, conn: &mut PgConnection) -> Result<(), StoreError> {
        let tables: Vec<String> = self.tables.iter().map(|table| self.table(table)).collect();
        run(conn, format!("ANALYZE {}", tables.join(", "))).await
    }

    /// Compares a table with its shadow, row by row.
    pub async fn compare(
        &self,
        conn: &mut PgConnection,
        table: &'static str,
    ) -> Result<Compared, StoreError> {
        let columns = columns(conn, &self.live, table).await?;
        let keys: Vec<&Column> = columns.iter().filter(|column| column.key).collect();
        let each = |side: &str, columns: &[&Column]| {
            let all = columns.iter().map(|column| column.of(side));
            all.collect::<Vec<_>>().join(", ")
        };
        let join: Vec<String> = keys
            .iter()
            .map(|key| format!("l.{0} = r.{0}", key.name))
            .collect();
        let key: Vec<String> = keys
            .iter()
            .map(|key| format!("{}, coalesce(l.{1}, r.{1})", key.literal, key.name))
            .collect();
        // A number that the database gives says nothing: rows come in another order.
        let compared: Vec<&Column> = columns.iter().filter(|column| !column.identity).collect();
        let sql = format!(
            "WITH differing AS MATERIALIZED (
                 SELECT CASE WHEN r.ctid IS NULL THEN 'only_live' WHEN l.ctid IS NULL THEN 'only_rebuilt'
                             ELSE 'different' END AS how,
                        jsonb_build_object({key})::text AS key
                 FROM {live} l FULL JOIN {shadow} r ON {join}
                 WHERE l.ctid IS NULL OR r.ctid IS NULL OR ROW({left}) IS DISTINCT FROM ROW({right})
             )
             SELECT (SELECT count(*) FROM {live}), (SELECT count(*) FROM {shadow}),
                    (SELECT count(*) FROM differing WHERE how = 'only_live'),
                    (SELECT count(*) FROM differing WHERE how = 'only_rebuilt'),
                    (SELECT count(*) FROM differing WHERE how = 'different'),
                    coalesce((SELECT array_agg(s.how) FROM (SELECT how FROM differing LIMIT $1) s), '{{}}'),
                    coalesce((SELECT array_agg(s.key) FROM (SELECT key FROM differing LIMIT $1) s), '{{}}')",
            key = key.join(", "),
            join = join.join(" AND "),
            live = self.live_table(table),
            shadow = self.table(table),
            left = each("l", &compared),
            right = each("r", &compared),
        );
        let row: (i64, i64, i64, i64, i64, Vec<String>, Vec<String>) = sqlx::query_as(AssertSqlSafe(sql))
            .bind(MOST_SAMPLES)
            .fetch_one(conn)
            .await?;
        Ok(Compared {
            table,
            live_rows: row.0,
            rebuilt_rows: row.1,
            only_live: row.2,
            only_rebuilt: row.3,
            different: row.4,
            samples: row.5.into_iter().zip(row.6).collect(),
        })
    }

    /// Puts the shadows in the place of the live tables, inside the caller's transaction. Waits a moment at most for
    /// those who read the live ones: others wait behind it.
    pub async fn swap(&self, conn: &mut PgConnection) -> Result<(), StoreError> {
        let live: Vec<String> = self.tables.iter().map(|table| self.live_table(table)).collect();
        let mut sql = format!(
            "SET LOCAL lock_timeout = '500ms'; DROP TABLE {};",
            live.join(", ")
        );
        for table in self.tables {
            sql.push_str(&format!(
                "ALTER TABLE {} SET SCHEMA {};",
                self.table(table),
                quoted(&self.live)
            ));
        }
        run(conn, sql).await
    }

    /// What the catalog says of the live schema's tables, inside a transaction that has swapped them.
    pub async fn describe_swapped(&self, conn: &mut PgConnection) -> Result<Vec<String>, StoreError> {
        run(conn, format!("SET LOCAL search_path = {}", quoted(&self.live))).await?;
        describe(conn, &self.live, self.tables).await
    }
}

/// A column as statements need it.
#[derive(sqlx::FromRow)]
struct Column {
    /// Quoted as an identifier.
    name: String,
    /// Quoted as a literal.
    literal: String,
    key: bool,
    identity: bool,
    /// Its type has no equality.
    textual: bool,
}

impl Column {
    fn of(&self, side: &str) -> String {
        format!("{side}.{}{}", self.name, if self.textual { "::text" } else { "" })
    }
}

async fn columns(conn: &mut PgConnection, schema: &str, table: &str) -> Result<Vec<Column>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT quote_ident(a.attname) AS name, quote_literal(a.attname) AS literal,
                coalesce(a.attnum = ANY (i.indkey), false) AS key,
                a.attidentity <> '' AND NOT coalesce(a.attnum = ANY (i.indkey), false) AS identity,
                a.atttypid IN ('json'::regtype, 'xml'::regtype) AS textual
         FROM pg_class c
         JOIN pg_namespace n ON n.oid = c.relnamespace
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
         WHERE n.nspname = $1 AND c.relname = $2
         ORDER BY a.attnum",
    )
    .bind(schema)
    .bind(table)
    .fetch_all(conn)
    .await?)
}

/// What `LIKE` does not take over, in an order in which it can be made: settings, keys, indexes, references, triggers,
/// comments, rights. The search path is the live schema, so nothing is qualified by it.
async fn statements(
    conn: &mut PgConnection,
    schema: &str,
    tables: &[&str],
) -> Result<Vec<String>, StoreError> {
    Ok(sqlx::query_scalar(
        "WITH owned AS (
             SELECT c.oid, quote_ident(c.relname) AS name, c.reloptions, c.relacl, c.relowner
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = $1 AND c.relname = ANY ($2)
         ), made (step, statement) AS (
             SELECT 1, format('ALTER TABLE %s SET (%s)', name, array_to_string(reloptions, ', '))
             FROM owned WHERE reloptions IS NOT NULL
             UNION ALL
             SELECT CASE k.contype WHEN 'f' THEN 4 ELSE 2 END,
                    format('ALTER TABLE %s ADD CONSTRAINT %I %s', o.name, k.conname, pg_get_constraintdef(k.oid))
             FROM owned o JOIN pg_constraint k ON k.conrelid = o.oid AND k.contype IN ('p', 'u', 'x', 'f')
             UNION ALL
             SELECT 3, pg_get_indexdef(i.indexrelid, 0, true)
             FROM owned o JOIN pg_index i ON i.indrelid = o.oid
             WHERE NOT EXISTS (SELECT FROM pg_constraint k
                               WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x'))
             UNION ALL
             SELECT 5, pg_get_triggerdef(t.oid, true)
             FROM owned o JOIN pg_trigger t ON t.tgrelid = o.oid AND NOT t.tgisinternal
             UNION ALL
             SELECT 6, format('COMMENT ON TABLE %s IS %L', name, obj_description(oid, 'pg_class'))
             FROM owned WHERE obj_description(oid, 'pg_class') IS NOT NULL
             UNION ALL
             SELECT 7, format('GRANT %s ON %s TO %s%s', a.privilege_type, o.name,
                              CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
                              CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
             FROM owned o, aclexplode(o.relacl) a WHERE a.grantee <> o.relowner
         )
         SELECT statement FROM made ORDER BY step, statement",
    )
    .bind(schema)
    .bind(tables)
    .fetch_all(conn)
    .await?)
}

/// All that matters of tables, a line each. The search path must begin with their schema.
async fn describe(conn: &mut PgConnection, schema: &str, tables: &[&str]) -> Result<Vec<String>, StoreError> {
    Ok(sqlx::query_scalar(
        "WITH owned AS (
             SELECT c.* FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = $1 AND c.relname = ANY ($2)
         ), said (name, line) AS (
             SELECT relname, concat_ws(' ', 'table', relkind, relpersistence, relreplident, relrowsecurity,
                                       relforcerowsecurity, relhassubclass, pg_get_userbyid(relowner), reltablespace,
                                       relam, reloptions,
                                       (SELECT t.reloptions FROM pg_class t WHERE t.oid = owned.reltoastrelid),
                                       (SELECT array_agg(a::text ORDER BY a::text)
                                        FROM UNNEST(coalesce(relacl, acldefault('r', relowner))) a),
                                       obj_description(oid, 'pg_class'))
             FROM owned
             UNION ALL
             SELECT o.relname, concat_ws(' ', 'column',
                        row_number() OVER (PARTITION BY o.oid ORDER BY a.attnum), a.attname,
                        format_type(a.atttypid, a.atttypmod), a.attcollation::regcollation, a.attnotnull, a.attidentity,
                        a.attgenerated, a.attstorage, a.attcompression, a.attstattarget, a.attacl, a.attoptions,
                        (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d
                         WHERE d.adrelid = o.oid AND d.adnum = a.attnum),
                        CASE WHEN a.attidentity <> ''
                             THEN split_part(pg_get_serial_sequence(o.oid::regclass::text, a.attname), '.', 2) END,
                        col_description(o.oid, a.attnum))
             FROM owned o JOIN pg_attribute a ON a.attrelid = o.oid AND a.attnum > 0 AND NOT a.attisdropped
             UNION ALL
             SELECT o.relname, concat_ws(' ', 'constraint', k.conname, pg_get_constraintdef(k.oid), k.convalidated,
                                         obj_description(k.oid, 'pg_constraint'))
             FROM owned o JOIN pg_constraint k ON k.conrelid = o.oid
             UNION ALL
             SELECT o.relname, concat_ws(' ', 'index', pg_get_indexdef(i.indexrelid, 0, true), i.indisvalid,
                                         i.indisclustered, i.indisreplident, obj_description(i.indexrelid, 'pg_class'))
             FROM owned o JOIN pg_index i ON i.indrelid = o.oid
             UNION ALL
             SELECT o.relname, concat_ws(' ', 'trigger', pg_get_triggerdef(t.oid, true), t.tgenabled,
                                         obj_description(t.oid, 'pg_trigger'))
             FROM owned o JOIN pg_trigger t ON t.tgrelid = o.oid AND NOT t.tgisinternal
             UNION ALL
             SELECT o.relname, concat_ws(' ', 'statistics', s.stxname) FROM owned o JOIN pg_statistic_ext s ON s.stxrelid = o.oid
             UNION ALL
             SELECT o.relname, concat_ws(' ', 'policy', p.polname) FROM owned o JOIN pg_policy p ON p.polrelid = o.oid
             UNION ALL
             SELECT o.relname, concat_ws(' ', 'publication', p.prpubid) FROM owned o JOIN pg_publication_rel p ON p.prrelid = o.oid
             UNION ALL
             SELECT o.relname, concat_ws(' ', 'rule', r.rulename) FROM owned o JOIN pg_rewrite r ON r.ev_class = o.oid
         )
         SELECT format('%s: %s', name, line) FROM said ORDER BY name, line",
    )
    .bind(schema)
    .bind(tables)
    .fetch_all(conn)
    .await?)
}
