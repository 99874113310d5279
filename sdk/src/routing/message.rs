//! A text that is put together while the program is compiled: a panic there takes one text and no
//! arguments.

/// Longer messages are cut.
const LIMIT: usize = 1_024;

pub(super) struct Message {
    bytes: [u8; LIMIT],
    length: usize,
}

impl Message {
    pub(super) const fn new(text: &str) -> Self {
        let empty = Self {
            bytes: [0; LIMIT],
            length: 0,
        };
        empty.and(text)
    }

    pub(super) const fn and(mut self, text: &str) -> Self {
        let text = text.as_bytes();
        let mut index = 0;
        while index < text.len() && self.length < LIMIT {
            // A byte that is no letter of its own would leave half a letter where it is cut.
            self.bytes[self.length] = if text[index].is_ascii() {
                text[index]
            } else {
                b'?'
            };
            self.length += 1;
            index += 1;
        }
        self
    }

    pub(super) const fn and_number(self, number: u16) -> Self {
        let digit = [b'0' + (number % 10) as u8];
        let rest = if number >= 10 {
            self.and_number(number / 10)
        } else {
            self
        };
        match std::str::from_utf8(&digit) {
            Ok(digit) => rest.and(digit),
            Err(_) => rest,
        }
    }

    pub(super) const fn text(&self) -> &str {
        let (text, _) = self.bytes.split_at(self.length);
        match std::str::from_utf8(text) {
            Ok(text) => text,
            Err(_) => "",
        }
    }

    pub(super) const fn panic(self) -> ! {
        panic!("{}", self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_put_together_and_cut() {
        const TEXT: Message = Message::new("lane ")
            .and_number(65_535)
            .and(" or ")
            .and_number(0);
        assert_eq!(TEXT.text(), "lane 65535 or 0");
        let long = "x".repeat(LIMIT);
        assert_eq!(
            Message::new("é").and(&long).text(),
            format!("??{}", &long[2..])
        );
    }
}
