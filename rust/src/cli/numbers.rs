//! Numbers in plain English.

/// "1 song", "2 songs", "50,000 songs".
pub fn count(number: usize, what: &str) -> String {
    format!("{} {what}{}", thousands(number as u64), if number == 1 { "" } else { "s" })
}

/// "is" for one, "are" for more.
pub fn is_or_are(number: usize) -> &'static str {
    if number == 1 { "is" } else { "are" }
}

/// A number with commas: 50,000.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_in_plain_english() {
        assert_eq!(count(1, "song"), "1 song");
        assert_eq!(count(0, "song"), "0 songs");
        assert_eq!(count(50_000, "song"), "50,000 songs");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(thousands(999), "999");
        assert_eq!((is_or_are(1), is_or_are(2)), ("is", "are"));
    }
}
