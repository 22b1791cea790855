//! `matrix.md`, read.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    Open,
    Closed,
    NoSocket,
}

impl Expected {
    pub fn as_str(self) -> &'static str {
        match self {
            Expected::Open => "open",
            Expected::Closed => "closed",
            Expected::NoSocket => "no socket",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub from: String,
    pub to: String,
    pub protocol: String,
    pub expected: Expected,
}

impl Row {
    pub fn key(&self) -> (String, String, String) {
        (self.from.clone(), self.to.clone(), self.protocol.clone())
    }
}

/// All rows of the table.
pub fn rows() -> Vec<Row> {
    parse(include_str!("matrix.md"))
}

fn parse(text: &str) -> Vec<Row> {
    let mut lines = text.lines().filter(|l| l.starts_with('|'));
    assert_eq!(lines.next(), Some("| from | to | protocol | expected | why |"));
    lines
        .skip(1)
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [from, to, protocol, expected, why] = cells[..] else { panic!("not five cells: {line}") };
            assert!(!why.is_empty(), "no reason: {line}");
            let all = [Expected::Open, Expected::Closed, Expected::NoSocket];
            let expected = all.into_iter().find(|e| e.as_str() == expected).unwrap_or_else(|| panic!("{line}"));
            Row { from: from.into(), to: to.into(), protocol: protocol.into(), expected }
        })
        .collect()
}

#[test]
fn a_line_that_is_no_row_is_not_passed_over() {
    let head = "| from | to | protocol | expected | why |\n|---|---|---|---|---|\n";
    assert_eq!(parse(&format!("{head}| a | b | TCP | no socket | so |\n"))[0].expected, Expected::NoSocket);
    for bad in ["| a | b | TCP | maybe | so |", "| a | b | TCP | open | |", "| a | b | open | so |"] {
        assert!(std::panic::catch_unwind(|| parse(&format!("{head}{bad}\n"))).is_err(), "{bad}");
    }
}
