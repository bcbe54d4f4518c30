//! `waybill bench orders`: placing, reading and listing orders over gRPC, beside what Postgres and tonic do bare.
//!
//! - placing at 1, 32 and 256 calls in flight, in turns with the floors: the same rows by a bare loop, one order a commit
//!   and twenty a commit, and a bare echo of messages of the same size;
//! - reading one order by its id, and a page of a list;
//! - all of it again in a store of `--orders` orders.
//!
//! Placing ends with a count: each call that was answered is one order in the table, or the benchmark fails.

mod bare;
mod fill;
mod load;
mod shop;

use self::bare::BareOrders;
use self::load::{Lap, Load};
use self::shop::Shop;
use super::Progress;
use super::args::OrdersArgs;
use super::floor::echo;
use super::ground::Ground;
use super::report::{Goal, Report, median};

/// The part of its floor that a figure is to reach.
const OF_FLOOR: f64 = 0.5;
/// The part of the figure of an empty store that is to be left in a full one.
const OF_EMPTY: f64 = 0.8;
/// Milliseconds that a placement alone may take beyond a bare insert of its rows.
const BEYOND_BARE_MS: f64 = 2.0;
/// Milliseconds in which 99 of 100 placements are answered at the most in flight.
const P99_MS: f64 = 50.0;
/// Placements in flight.
const IN_FLIGHT: [usize; 3] = [1, 32, MOST_IN_FLIGHT];
const MOST_IN_FLIGHT: usize = 256;
/// Placements after a checkpoint that are not measured in a full store. The first change of a page since a checkpoint is
/// logged with the whole page, and there they all lie on pages of their own: for a while a placement costs half as much again.
const FIRST_WRITES: usize = 50_000;
/// Bytes of the write-ahead log that an order takes, at most.
const LOG_BYTES: u64 = 8 << 10;
/// Bytes of a GiB.
const GIB: f64 = (1_u64 << 30) as f64;
/// Reads and lists in flight.
const READERS: usize = 32;
/// Orders of a page of the list.
const PAGE: i32 = 20;

/// `waybill bench orders`.
pub async fn run(args: &OrdersArgs, progress: &Progress) -> anyhow::Result<Report> {
    progress.say("orders: starting Postgres, NATS and the order service");
    let ground = Ground::start(&[shop::SERVICE]).await?;
    let mut report = Report::default();
    report.machine(ground.machine().await?);
    let shop = Shop::start(&ground).await?;
    let load = Load::new(&shop, args.seed);
    let bare = BareOrders::make(&ground).await?;

    // A round writes the orders of five measurements, floors included.
    let orders = u64::from(args.calls) * (5 * u64::from(args.rounds) + 1);
    ground.age(orders * LOG_BYTES).await?;

    // The first calls meet empty caches, statements that are not prepared, connections that are not open.
    progress.say("orders: warming up");
    load.place(32, args.calls as usize / 4).await?;
    load.get(READERS, args.calls as usize / 4).await?;
    fill::settle(&shop).await?;
    let empty = Rounds::measure(args, progress, "an empty store", &load, Some(&bare)).await?;
    empty.report("", &mut report);
    empty.report_floors(&load, &mut report);

    if args.orders > 0 {
        fill::fill(&shop, i64::from(args.orders), progress).await?;
        let (tables, indexes) = shop.bytes().await?;
        report.figure("full_tables_gib", tables as f64 / GIB);
        report.figure("full_indexes_gib", indexes as f64 / GIB);
        progress.say("orders: a checkpoint, and placing until most pages were written once since");
        ground.checkpoint().await?;
        load.place(MOST_IN_FLIGHT, FIRST_WRITES.min(args.orders as usize))
            .await?;
        let full = Rounds::measure(args, progress, "a full store", &load, None).await?;
        full.report("_full", &mut report);
        report.figure("full_orders", f64::from(args.orders));
        for ((name, full), (_, empty)) in full.rates().into_iter().zip(empty.rates()) {
            report.ratio_with_goal(
                format!("{name}_full_to_empty"),
                full / empty,
                Goal::AtLeast(OF_EMPTY),
            );
        }
    }
    shop.check(load.placed()).await?;
    drop(load);
    shop.stop().await?;
    ground.stop().await?;
    Ok(report)
}

/// What some rounds measured, one entry a round.
#[derive(Default)]
struct Rounds {
    placed: [Vec<Lap>; IN_FLIGHT.len()],
    got: Vec<Lap>,
    listed: Vec<Lap>,
    singles: Vec<Lap>,
    single_alone: Vec<Lap>,
    sets: Vec<f64>,
    echoes: Vec<f64>,
    reads: Vec<f64>,
}

impl Rounds {
    /// Floors and figures in turns.
    async fn measure(
        args: &OrdersArgs,
        progress: &Progress,
        place: &str,
        load: &Load,
        bare: Option<&BareOrders>,
    ) -> anyhow::Result<Rounds> {
        let calls = args.calls as usize;
        let mut rounds = Rounds::default();
        for round in 1..=args.rounds {
            let say = |what: &str| {
                progress.say(format!(
                    "orders: {place}, round {round} of {}: {what}",
                    args.rounds
                ))
            };
            if let Some(bare) = bare {
                say("the floor");
                rounds
                    .single_alone
                    .push(bare.insert(1, 1, calls.div_ceil(20)).await?);
                rounds.singles.push(bare.insert(32, 1, calls).await?);
                rounds.sets.push(bare.insert(2, 20, calls).await?.per_second());
                let echoed = echo::unary(load.message_bytes(), calls, READERS).await?;
                rounds.echoes.push(echoed.per_second());
                rounds.reads.push(bare.read(20, calls).await?.per_second());
            }
            for (laps, in_flight) in rounds.placed.iter_mut().zip(IN_FLIGHT) {
                say(&format!("placing, {in_flight} in flight"));
                // One at a time each waits for the disk: fewer take as long.
                let calls = if in_flight == 1 { calls.div_ceil(20) } else { calls };
                laps.push(load.place(in_flight, calls).await?);
            }
            say("reading");
            rounds.got.push(load.get(READERS, calls).await?);
            say("listing");
            rounds
                .listed
                .push(load.list(READERS, calls.div_ceil(10), PAGE).await?);
        }
        Ok(rounds)
    }

    fn rates(&self) -> Vec<(String, f64)> {
        let placed = self.placed.iter().zip(IN_FLIGHT);
        let mut rates: Vec<(String, f64)> = placed
            .map(|(laps, in_flight)| (format!("place_{in_flight}"), rate(laps)))
            .collect();
        rates.push(("get".to_owned(), rate(&self.got)));
        rates.push(("list".to_owned(), rate(&self.listed)));
        rates
    }

    /// What ours does; `suffix` tells the full store from the empty one.
    fn report(&self, suffix: &str, report: &mut Report) {
        for (name, rate) in self.rates() {
            report.figure(format!("{name}_per_second{suffix}"), rate);
        }
        for (laps, in_flight) in self.placed.iter().zip(IN_FLIGHT) {
            report.figure(format!("place_{in_flight}_p50_ms{suffix}"), at(laps, 0.5));
            let (key, p99) = (format!("place_{in_flight}_p99_ms{suffix}"), at(laps, 0.99));
            if in_flight == IN_FLIGHT[2] {
                report.figure_with_goal(key, p99, Goal::AtMost(P99_MS));
            } else {
                report.figure(key, p99);
            }
        }
        report.figure(format!("get_p99_ms{suffix}"), at(&self.got, 0.99));
        report.figure(format!("list_p99_ms{suffix}"), at(&self.listed, 0.99));
    }

    /// What the machine does bare, and how far ours is from it.
    fn report_floors(&self, load: &Load, report: &mut Report) {
        let (single, set) = (rate(&self.singles), median(&self.sets));
        let (echo, read) = (median(&self.echoes), median(&self.reads));
        let (place, get) = (together(set, echo), together(echo, read));
        report.floor("order_message_bytes", load.message_bytes() as f64);
        report.floor("order_insert_single_per_second", single);
        report.floor("order_insert_single_p50_ms", at(&self.single_alone, 0.5));
        report.floor("order_insert_set_per_second", set);
        report.floor("order_echo_per_second", echo);
        report.floor("order_read_per_second", read);
        report.floor("order_place_per_second", place);
        report.floor("order_get_per_second", get);
        let placed = rate(&self.placed[2]);
        report.ratio_with_goal("place_to_single", placed / single, Goal::AtLeast(1.0));
        report.ratio_with_goal("place_to_floor", placed / place, Goal::AtLeast(OF_FLOOR));
        report.ratio_with_goal("get_to_floor", rate(&self.got) / get, Goal::AtLeast(OF_FLOOR));
        let beyond = at(&self.placed[0], 0.5) - at(&self.single_alone, 0.5);
        report.figure_with_goal(
            "place_1_p50_beyond_single_ms",
            beyond,
            Goal::AtMost(BEYOND_BARE_MS),
        );
    }
}

/// What two parts do that take turns on the same cores.
fn together(one: f64, other: f64) -> f64 {
    (one.recip() + other.recip()).recip()
}

fn rate(laps: &[Lap]) -> f64 {
    median(&laps.iter().map(Lap::per_second).collect::<Vec<_>>())
}

fn at(laps: &[Lap], quantile: f64) -> f64 {
    median(&laps.iter().map(|lap| lap.at(quantile)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::together;

    #[test]
    fn two_equal_parts_are_half_as_fast_together() {
        assert!((together(100.0, 100.0) - 50.0).abs() < 1e-9);
        assert!(together(100.0, 1e12) > 99.9);
    }
}
