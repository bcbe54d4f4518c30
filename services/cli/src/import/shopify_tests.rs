//! Reading order exports: what belongs together, what is broken, what is no export at all.

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
        import.rejected.iter().map(|row| row.line).collect::<Vec<_>>(),
        [4, 5]
    );
    assert!(
        import.rejected[0].reason.starts_with("Created at: \"yesterday\""),
        "{:?}",
        import.rejected
    );
    assert!(
        import.rejected[1].reason.contains("3 columns"),
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
    assert_eq!(import.rejected[0].reason, "Lineitem name: not valid UTF-8");
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
            import.rejected[0].reason.starts_with(column),
            "{to}: {:?}",
            import.rejected
        );
    }
}

#[test]
fn a_file_that_is_none_says_so() {
    assert!(matches!(read(&b""[..]), Err(ImportError::Empty)));
    let error = read(&b"a,b\n1,2\n"[..]).expect_err("no columns");
    assert!(error.to_string().contains("Lineitem sku"), "{error}");
}

#[test]
fn the_sample_is_read_whole() {
    let import = read(&include_bytes!("../../demo/orders.csv")[..]).expect("the sample");
    assert_eq!((import.orders.len(), import.rejected.len()), (32, 0));
}
