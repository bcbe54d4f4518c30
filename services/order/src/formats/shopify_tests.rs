//! Reading order exports: what belongs together, what is broken, what is no export at all.

use waybill_proto::waybill::r#type::v1::Money as ProtoMoney;

use super::*;

const HEADER: &str = "Name,Email,Currency,Subtotal,Shipping,Taxes,Total,Discount Code,Discount Amount,\
                      Shipping Method,Created at,Lineitem quantity,Lineitem name,Lineitem price,Lineitem sku,\
                      Financial Status,Payment Method,Payment ID,Tax 1 Name,Tax 1 Value,Shipping Country,Id";

fn file(rows: &[&str]) -> String {
    format!("{}\n{}\n", HEADER, rows.join("\n"))
}

const ONE: &str = "#1,a@example.com,GBP,27.00,4.95,5.33,31.95,TEN,3.00,Post,2026-10-01 10:00:00 +0000,2,Mug,10.00,MUG,\
                   paid,Stripe,pi_1,GB VAT 20%,5.33,GB,77";
const ONE_MORE: &str = "#1,a@example.com,,,,,,,,,,1,Candle,10.00,CND,,,,,,,";
const TWO: &str =
    "#2,b@example.com,USD,10.00,0,0.73,10.73,,,,2026-10-02 10:00:00 +0000,1,Mug,10.00,MUG,pending,,,,,US,78";

fn minor(money: Option<&ProtoMoney>) -> i64 {
    money.map_or(0, |money| money.minor_units)
}

#[test]
fn rows_of_one_name_are_one_order_and_its_taxes_sum_to_the_file() {
    let import = read(file(&[ONE, ONE_MORE, TWO]).as_bytes()).expect("a file");
    assert_eq!(
        (import.rows, import.orders.len(), import.rejected.len()),
        (3, 2, 0)
    );
    let first = &import.orders[0];
    assert_eq!((first.line, first.order.lines.len()), (2, 2));
    assert!(first.order.prices_include_tax);
    let taxes: i64 = first
        .order
        .lines
        .iter()
        .flat_map(|line| &line.taxes)
        .chain(first.order.shipping_lines.iter().flat_map(|line| &line.taxes))
        .map(|tax| minor(tax.amount.as_ref()))
        .sum();
    assert_eq!(taxes, 533);
    assert_eq!(first.order.lines[0].taxes[0].rate_ppm, 200_000);
    let payment = first.payment.as_ref().expect("it was paid");
    assert_eq!(
        (payment.provider.as_str(), payment.provider_payment_id.as_str()),
        ("stripe", "pi_1")
    );
    assert!(!import.orders[1].order.prices_include_tax);
    assert!(import.orders[1].payment.is_none());
}

#[test]
fn a_broken_row_costs_its_own_order_and_is_named() {
    let broken = "#3,c@example.com,EUR,10.00,0,0,10.00,,,,yesterday,1,Mug,10.00,MUG,paid,,,,,DE,79";
    let short = "#4,d@example.com,EUR";
    let import = read(file(&[ONE, ONE_MORE, broken, short, TWO]).as_bytes()).expect("a file");
    assert_eq!(import.orders.len(), 2);
    assert_eq!(
        import
            .rejected
            .iter()
            .map(|(_, fault)| fault.line)
            .collect::<Vec<_>>(),
        [4, 5]
    );
    assert!(
        import.rejected[0]
            .1
            .to_string()
            .starts_with("Created at: \"yesterday\""),
        "{:?}",
        import.rejected
    );
    assert!(
        import.rejected[1].1.description.contains("3 columns"),
        "{:?}",
        import.rejected
    );
}

#[test]
fn bytes_that_are_no_text_are_named_by_column() {
    let mut bytes = file(&[ONE]).into_bytes();
    let at = bytes
        .windows(3)
        .position(|window| window == b"Mug")
        .expect("the title");
    bytes[at] = 0xff;
    let import = read(bytes.as_slice()).expect("a file");
    assert_eq!(import.rejected.len(), 1);
    assert_eq!(import.rejected[0].1.to_string(), "Lineitem name: not valid UTF-8");
}

#[test]
fn amounts_that_are_none_are_refused() {
    for (from, to, column) in [
        (",10.00,MUG", ",10.005,MUG", "Lineitem price"),
        (",10.00,MUG", ",ten,MUG", "Lineitem price"),
        (",2,Mug", ",1.5,Mug", "Lineitem quantity"),
        ("GBP", "XXQ", "Currency"),
        (",31.95,", ",99999999999999999999,", "Total"),
    ] {
        let import = read(file(&[&ONE.replace(from, to)]).as_bytes()).expect("a file");
        assert_eq!(import.rejected.len(), 1, "{to}");
        assert!(
            import.rejected[0].1.field == column,
            "{to}: {:?}",
            import.rejected
        );
    }
}

#[test]
fn a_file_that_is_none_says_so() {
    assert!(matches!(read(b""), Err(Unreadable::Empty)));
    let error = read(b"a,b\n1,2\n").expect_err("no columns");
    assert!(error.to_string().contains("Lineitem sku"), "{error}");
}

/// The units of a file that arrives in pieces, and of the same file taken up anew behind each of them.
#[test]
fn a_file_is_taken_up_behind_any_order() {
    let broken = "#3,c@example.com,EUR,10.00,0,0,10.00,,,,yesterday,1,Mug,10.00,MUG,paid,,,,,DE,79";
    let file = file(&[ONE, ONE_MORE, "", broken, TWO, "#4,d@example.com,EUR"]).into_bytes();
    let told = |unit: &Unit| {
        (
            unit.line,
            unit.rows,
            unit.number.clone(),
            unit.read.is_ok(),
            unit.end,
        )
    };
    let units = |reader: &mut Reader, bytes: &[u8], piece: usize| {
        let mut found = Vec::new();
        let pieces: Vec<&[u8]> = bytes.chunks(piece).collect();
        for (at, bytes) in pieces.iter().enumerate() {
            reader.feed(bytes, at + 1 == pieces.len());
            while let Some(unit) = reader.read().expect("a file") {
                found.push(told(&unit));
            }
        }
        found
    };
    let mut reader = Reader::new();
    let whole = units(&mut reader, &file, file.len());
    let numbers: Vec<_> = whole
        .iter()
        .map(|(line, rows, number, ok, _)| (*line, *rows, number.as_str(), *ok))
        .collect();
    assert_eq!(
        numbers,
        [
            (2, 2, "#1", true),
            (5, 1, "#3", false),
            (6, 1, "#2", true),
            (7, 1, "#4", false)
        ]
    );
    assert_eq!(reader.end().byte, file.len() as u64);
    for piece in [1, 5, 64, 300] {
        assert_eq!(
            units(&mut Reader::new(), &file, piece),
            whole,
            "pieces of {piece}"
        );
        for (at, (.., end)) in whole.iter().enumerate() {
            let mut resumed = Reader::resume(*end, reader.header()).expect("the header of before");
            let rest = units(
                &mut resumed,
                &file[usize::try_from(end.byte).expect("small")..],
                piece,
            );
            assert_eq!(rest, whole[at + 1..], "behind unit {at} in pieces of {piece}");
        }
    }
}

#[test]
fn an_order_of_too_many_rows_is_refused_and_not_kept() {
    let rows = |count: usize| {
        let mut rows = vec![ONE];
        rows.extend(std::iter::repeat_n(ONE_MORE, count - 1));
        rows.push(TWO);
        file(&rows)
    };
    let most = read(rows(MAX_ROWS_OF_ORDER).as_bytes()).expect("a file");
    assert_eq!(most.orders[0].order.lines.len(), MAX_ROWS_OF_ORDER);
    let more = read(rows(MAX_ROWS_OF_ORDER + 1).as_bytes()).expect("a file");
    assert_eq!((more.orders.len(), more.rejected.len()), (1, 1));
    assert!(
        more.rejected[0].1.description.contains("10001 rows"),
        "{:?}",
        more.rejected
    );
    assert_eq!(more.rows, 10_002);
}

#[test]
fn lines_are_counted_alike_whatever_ends_them() {
    let broken = file(&[ONE, "#9", TWO]);
    for text in [
        broken.clone(),
        broken.replace('\n', "\r\n"),
        broken.replace('\n', "\r"),
        format!("\u{feff}{broken}"),
    ] {
        let import = read(text.as_bytes()).expect("a file");
        assert_eq!(
            import
                .rejected
                .iter()
                .map(|(_, fault)| fault.line)
                .collect::<Vec<_>>(),
            [3]
        );
        assert_eq!(
            import.orders.iter().map(|order| order.line).collect::<Vec<_>>(),
            [2, 4]
        );
    }
    let binary = read(&[0xff, 0xfe, 0x00, 0x41, 0x0a]).expect_err("not a table");
    assert!(binary.to_string().contains("missing"), "{binary}");
    let header = file(&[]);
    assert_eq!(read(header.as_bytes()).map(|import| import.orders.len()), Ok(0));
}
