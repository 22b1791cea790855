//! `--format`: JSON, or a template of fields as docker's users write them, `{{.Name}}` and `{{json .Ports}}`.
//!
//! A field is looked for in what a list shows (`.ID`, `.Ports` as text), and then in the API's own object, whose names count
//! whatever their case. What there is not is refused before anything is asked for, also where the list would be empty.

use serde::Serialize;
use serde_json::Value;

use super::output::{self, Failure, say};

/// What may be named.
pub(super) struct Fields {
    /// What a list shows.
    pub(super) shown: &'static [&'static str],
    /// What the API's object may have.
    pub(super) known: Vec<String>,
}

impl Fields {
    /// Of objects of that type.
    pub(super) fn of<T: utoipa::PartialSchema>(shown: &'static [&'static str]) -> Self {
        let known = match T::schema() {
            utoipa::openapi::RefOr::T(utoipa::openapi::Schema::Object(object)) => {
                object.properties.into_keys().collect()
            }
            _ => Vec::new(),
        };
        Fields { shown, known }
    }

    fn has(&self, name: &str) -> bool {
        self.shown.iter().any(|s| s.eq_ignore_ascii_case(name))
            || self.known.iter().any(|k| k.eq_ignore_ascii_case(name))
    }

    fn names(&self) -> String {
        let more = self.known.iter().filter(|k| !self.shown.iter().any(|s| s.eq_ignore_ascii_case(k)));
        let all = self.shown.iter().map(|s| format!(".{s}")).chain(more.map(|k| format!(".{}", capital(k))));
        all.collect::<Vec<_>>().join(" ")
    }
}

fn capital(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Something that is listed.
pub(super) struct Row {
    /// Texts for the names in [`Fields::shown`], in that order.
    pub(super) shown: Vec<String>,
    /// The API's object.
    pub(super) value: Value,
}

impl Row {
    /// What is shown beside all that the API says.
    pub(super) fn new(shown: Vec<String>, object: &impl Serialize) -> Self {
        Row { shown, value: serde_json::to_value(object).unwrap_or_default() }
    }
}

/// What was typed after `--format`.
pub(super) enum Format {
    /// One object a line.
    Json,
    /// One line of text each, with a head and columns of one width if it is a table.
    Template { pieces: Vec<Piece>, table: bool },
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String),
    Field { path: Vec<String>, json: bool },
}

fn own(text: String) -> Failure {
    Failure::Own(text)
}

impl Format {
    /// Reads it.
    ///
    /// # Errors
    /// It is none, or names a field that there is not.
    pub(super) fn parse(text: &str, fields: &Fields) -> Result<Self, Failure> {
        if text.trim() == "json" {
            return Ok(Format::Json);
        }
        let (table, text) = text.strip_prefix("table ").map_or((false, text), |rest| (true, rest));
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        let mut pieces = Vec::new();
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once("{{") {
            let Some((inside, after)) = after.split_once("}}") else {
                return Err(own(format!("--format: {{{{{after} has no end\nhint: write {{{{.Name}}}}")));
            };
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            pieces.push(field(inside.trim(), fields)?);
            rest = after;
        }
        if pieces.is_empty() {
            let hint = "such as '{{.Name}} {{.State}}', 'table {{.Name}}\\t{{.State}}', or json";
            return Err(own(format!("--format {text:?} names no field\nhint: {hint}")));
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Format::Template { pieces, table })
    }

    /// Prints all of them.
    ///
    /// # Errors
    /// A field that one of them does not have.
    pub(super) fn print(&self, rows: &[Row], fields: &Fields) -> Result<(), Failure> {
        match self {
            Format::Json => rows.iter().for_each(|r| say!("{}", r.value)),
            Format::Template { pieces, table } => {
                let lines = rows.iter().map(|r| line(pieces, r, fields)).collect::<Result<Vec<_>, _>>()?;
                if *table {
                    let head: Vec<String> = head(pieces).split('\t').map(str::to_owned).collect();
                    let head: Vec<&str> = head.iter().map(String::as_str).collect();
                    let cells = |l: String| l.split('\t').map(str::to_owned).collect();
                    output::table(&head, &lines.into_iter().map(cells).collect::<Vec<Vec<String>>>());
                } else {
                    lines.iter().for_each(|l| say!("{l}"));
                }
            }
        }
        Ok(())
    }
}

fn field(inside: &str, fields: &Fields) -> Result<Piece, Failure> {
    let (json, name) = match inside.strip_prefix("json") {
        Some(rest) if rest.starts_with([' ', '\t']) => (true, rest.trim()),
        _ => (false, inside),
    };
    let plain =
        |p: &str| !p.is_empty() && !p.contains(|c: char| c.is_whitespace() || matches!(c, '|' | '(' | ')' | '$' | '"'));
    let path: Vec<String> = match name.strip_prefix('.') {
        Some("") => Vec::new(),
        Some(path) if path.split('.').all(plain) => path.split('.').map(str::to_owned).collect(),
        _ => {
            return Err(own(format!(
                "--format: {{{{{inside}}}}} is not understood\nhint: {{{{.Field}}}}, {{{{.Field.Field}}}} or {{{{json .Field}}}}; for more, `--format json | jq`"
            )));
        }
    };
    match path.first() {
        Some(first) if !fields.has(first) => {
            Err(own(format!("--format: there is no field .{first}\nhint: there are {}", fields.names())))
        }
        _ => Ok(Piece::Field { path, json }),
    }
}

/// The names of the columns.
fn head(pieces: &[Piece]) -> String {
    let name = |p: &Piece| match p {
        Piece::Text(t) => t.clone(),
        Piece::Field { path, .. } => path.join(" ").to_uppercase(),
    };
    pieces.iter().map(name).collect()
}

fn line(pieces: &[Piece], row: &Row, fields: &Fields) -> Result<String, Failure> {
    let mut line = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => line.push_str(text),
            Piece::Field { path, json } => {
                let shown = match path.as_slice() {
                    [one] if !json => fields.shown.iter().position(|s| s.eq_ignore_ascii_case(one)),
                    _ => None,
                };
                match shown.and_then(|at| row.shown.get(at)) {
                    Some(text) => line.push_str(text),
                    None => line.push_str(&written(find(&row.value, path)?, *json)),
                }
            }
        }
    }
    Ok(line)
}

/// What lies at a path; none: it is known, and not there.
fn find<'a>(value: &'a Value, path: &[String]) -> Result<Option<&'a Value>, Failure> {
    let mut at = value;
    for (n, part) in path.iter().enumerate() {
        let next = match at {
            Value::Object(map) => {
                // A label's name may have dots in it.
                if let Some(whole) = map.get(&path[n..].join(".")) {
                    return Ok(Some(whole));
                }
                map.get(part).or_else(|| map.iter().find(|(k, _)| k.eq_ignore_ascii_case(part)).map(|(_, v)| v))
            }
            Value::Array(all) => part.parse::<usize>().ok().and_then(|i| all.get(i)),
            Value::Null => return Ok(None),
            Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                let above = path[..n].join(".");
                return Err(own(format!("--format: .{above} is {at}: it has no field .{part}")));
            }
        };
        at = match next {
            Some(next) => next,
            // Fields of the object itself were looked at before; labels are called as their pod's user likes.
            None if n == 0 || path[0].eq_ignore_ascii_case("labels") => return Ok(None),
            None => {
                let names: Vec<String> = match at {
                    Value::Object(map) => map.keys().map(|k| format!(".{}", capital(k))).collect(),
                    Value::Array(all) => vec![format!("{} of them, from .0", all.len())],
                    _ => Vec::new(),
                };
                let above = path[..n].join(".");
                return Err(own(format!(
                    "--format: .{above} has no field .{part}\nhint: there are {}",
                    names.join(" ")
                )));
            }
        };
    }
    Ok(Some(at))
}

fn written(value: Option<&Value>, json: bool) -> String {
    match value {
        None | Some(Value::Null) if !json => String::new(),
        None => "null".to_owned(),
        Some(Value::String(text)) if !json => text.clone(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields() -> Fields {
        Fields {
            shown: &["ID", "Ports"],
            known: ["id", "ports", "state", "health", "labels", "exitCode"].map(str::to_owned).into(),
        }
    }

    fn shown(template: &str) -> Result<String, String> {
        let value = json!({"id": "0123", "state": "running", "ports": [{"host": 8080}], "exitCode": null,
            "labels": {"team": "a", "com.example.Tier": "x"}});
        let row = Row { shown: vec!["012".into(), "8080->80/tcp".into()], value };
        let text = |f: Failure| match f {
            Failure::Own(text) => text,
            Failure::Client(e) => e.to_string(),
        };
        match Format::parse(template, &fields()).map_err(text)? {
            Format::Json => Ok(row.value.to_string()),
            Format::Template { pieces, .. } => line(&pieces, &row, &fields()).map_err(text),
        }
    }

    #[test]
    fn fields_are_shown_or_refused() {
        for (template, wanted) in [
            ("{{.ID}} {{.State}}", "012 running"),
            ("{{ .id }}\\t{{.ports}}", "012\t8080->80/tcp"),
            ("{{json .Ports}}", "[{\"host\":8080}]"),
            ("{{.Ports.0.Host}}", "8080"),
            ("{{json .State}}{{json .Health}}", "\"running\"null"),
            ("[{{.ExitCode}}{{.Health}}{{.Health.Status}}]", "[]"),
            ("{{.Labels.team}} {{.Labels.com.example.Tier}} {{.Labels.nosuch}}", "a x "),
            ("{{.Labels}}", "{\"com.example.Tier\":\"x\",\"team\":\"a\"}"),
        ] {
            assert_eq!(shown(template).as_deref(), Ok(wanted), "{template}");
        }
        let whole: Value = serde_json::from_str(&shown("{{json .}}").unwrap()).unwrap();
        assert_eq!(whole["state"], "running");
        for (template, says) in [
            ("{{.Nosuch}}", "there are .ID .Ports .State .Health .Labels .ExitCode"),
            ("{{.State.Status}}", "is \"running\": it has no field .Status"),
            ("{{.Ports.1}}", "1 of them, from .0"),
            ("{{.Ports.0.Container}}", "there are .Host"),
            ("{{index .Ports 0}}", "is not understood"),
            ("{{.State | upper}}", "is not understood"),
            ("{{.State", "has no end"),
            ("{{..}}", "is not understood"),
            ("{{}}", "is not understood"),
            ("state", "names no field"),
            ("", "names no field"),
        ] {
            let said = shown(template).unwrap_err();
            assert!(said.contains(says), "{template}: {said}");
        }
    }

    #[test]
    fn a_table_has_a_head() {
        let Ok(Format::Template { pieces, table: true }) = Format::parse("table {{.ID}}\\t{{.State}}", &fields())
        else {
            panic!()
        };
        assert_eq!(head(&pieces), "ID\tSTATE");
    }

    #[test]
    fn what_may_be_named_is_what_the_api_has() {
        let known = Fields::of::<crate::api::types::Pod>(&[]).known;
        for name in ["id", "state", "exitCode", "health", "program"] {
            assert!(known.iter().any(|k| k == name), "{name}: {known:?}");
        }
    }
}
