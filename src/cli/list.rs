//! `ps`, `images` and `inspect`.

use clap::Args;

use super::format::{Fields, Format, Row};
use super::output::{self, Failure, say};
use crate::api::client::{self, Client};
use crate::api::types::{Image, Pod};

type Done = Result<u8, Failure>;

/// Characters of a pod's id that stand for it.
const SHORT: usize = 12;
/// Characters of a command that a list shows.
const COMMAND: usize = 24;

/// How a list is shown.
#[derive(Debug, Args)]
pub(super) struct Look {
    /// Only ids
    #[arg(short, long, conflicts_with = "format")]
    quiet: bool,
    /// Ids and commands in full
    #[arg(long)]
    no_trunc: bool,
    /// json, or a template such as '{{.Name}} {{.State}}'; with `table ` before it, it gets a head
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<String>,
}

impl Look {
    /// What was asked for by `--format`.
    fn format(&self, fields: &Fields, json: bool) -> Result<Option<Format>, Failure> {
        template(self.format.as_deref(), fields, json)
    }

    fn id<'a>(&self, whole: &'a str) -> &'a str {
        if self.no_trunc { whole } else { whole.get(..SHORT).unwrap_or(whole) }
    }
}

fn template(text: Option<&str>, fields: &Fields, json: bool) -> Result<Option<Format>, Failure> {
    if json && text.is_some() {
        return Err(Failure::Own("--json and --format can't be had together".into()));
    }
    text.map(|t| Format::parse(t, fields)).transpose()
}

#[derive(Debug, Args)]
pub(super) struct Ps {
    /// All of them, not only those that run or sleep
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    look: Look,
    /// Only those with label=NAME[=VALUE], name=PART, or state=STATE
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Images {
    #[command(flatten)]
    look: Look,
}

#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// json, or a template such as '{{.State}}'
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
    #[arg(required = true)]
    pods: Vec<String>,
}

/// A time as lists show it.
pub(super) fn time(timestamp: &str) -> String {
    timestamp.split('.').next().unwrap_or("").replace('T', " ")
}

/// A program and its arguments, as one would type them; no more of it than that, if a bound is given.
fn command(program: &[String], most: Option<usize>) -> String {
    let line = program.iter().map(|w| output::quoted(w)).collect::<Vec<_>>().join(" ");
    // What a program is called is its user's: no line of a list is broken by it.
    let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match most {
        Some(most) if line.chars().count() > most => line.chars().take(most - 1).chain(['…']).collect(),
        _ => line,
    }
}

const OF_PODS: &[&str] =
    &["ID", "Name", "Names", "Image", "Command", "State", "Status", "Address", "Ports", "Labels", "CreatedAt"];

/// `torpor ps`.
pub(super) async fn ps(client: &Client, args: &Ps, json: bool) -> Done {
    let fields = Fields::of::<Pod>(OF_PODS);
    let format = args.look.format(&fields, json)?;
    let split = |f: &String| match f.split_once('=') {
        Some((key @ ("label" | "name" | "state"), value)) => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Failure::Own(format!("{f:?} is no filter: label=NAME[=VALUE], name=PART or state=STATE"))),
    };
    let filter = args.filter.iter().map(split).collect::<Result<Vec<_>, _>>()?;
    // As docker: whoever names a state wants to see it.
    let all = args.all || filter.iter().any(|(key, _)| key == "state");
    let query: Vec<(&str, String)> = filter.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
    let mut pods = client.pods_where(&client::query(&query)).await?;
    pods.retain(|p| all || p.restart_at.is_some() || !matches!(p.state.as_str(), "stopped" | "created" | "failed"));
    let most = (!args.look.no_trunc).then_some(COMMAND);
    if let Some(format) = format {
        let labels = |p: &Pod| p.labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",");
        let row = |p: &Pod| {
            let shown = vec![
                args.look.id(&p.id).to_owned(),
                p.name.clone(),
                p.name.clone(),
                p.image.clone(),
                command(&p.program, most),
                p.state.clone(),
                output::state(p),
                p.address.clone(),
                output::ports(p),
                labels(p),
                time(&p.created_at),
            ];
            Row::new(shown, p)
        };
        format.print(&pods.iter().map(row).collect::<Vec<_>>(), &fields)?;
    } else if json {
        output::json(&pods);
    } else if args.look.quiet {
        pods.iter().for_each(|p| say!("{}", args.look.id(&p.id)));
    } else {
        let row = |p: &Pod| {
            vec![
                args.look.id(&p.id).to_owned(),
                p.name.clone(),
                p.image.clone(),
                command(&p.program, most),
                output::state(p),
                p.address.clone(),
                output::ports(p),
                time(&p.created_at),
            ]
        };
        let rows: Vec<Vec<String>> = pods.iter().map(row).collect();
        output::table(&["POD ID", "NAME", "IMAGE", "COMMAND", "STATE", "ADDRESS", "PORTS", "CREATED (UTC)"], &rows);
    }
    Ok(0)
}

const OF_IMAGES: &[&str] = &["ID", "Name", "Layers", "Size", "CreatedAt", "Repository", "Tag"];

/// `torpor images`.
pub(super) async fn images(client: &Client, args: &Images, json: bool) -> Done {
    let fields = Fields::of::<Image>(OF_IMAGES);
    let format = args.look.format(&fields, json)?;
    let all = client.images().await?;
    let id = |i: &Image| {
        let hex = i.id.strip_prefix("sha256:").unwrap_or(&i.id);
        if args.look.no_trunc { i.id.clone() } else { args.look.id(hex).to_owned() }
    };
    let cells = |i: &Image| vec![id(i), i.layers.len().to_string(), output::bytes(i.size), time(&i.created_at)];
    let named = |at: usize, i: &Image| {
        let mut row = cells(i);
        row.insert(at, i.name.clone());
        row
    };
    if let Some(format) = format {
        let row = |i: &Image| {
            let (repository, tag) = i.name.rsplit_once(':').unwrap_or((&i.name, ""));
            let mut shown = named(1, i);
            shown.extend([repository.to_owned(), tag.to_owned()]);
            Row::new(shown, i)
        };
        let rows: Vec<Row> = all.iter().map(row).collect();
        format.print(&rows, &fields)?;
    } else if json {
        output::json(&all);
    } else if args.look.quiet {
        all.iter().for_each(|i| say!("{}", id(i)));
    } else {
        let rows: Vec<Vec<String>> = all.iter().map(|i| named(0, i)).collect();
        output::table(&["IMAGE", "ID", "LAYERS", "SIZE", "CREATED (UTC)"], &rows);
    }
    Ok(0)
}

/// `torpor inspect`.
pub(super) async fn inspect(client: &Client, args: &Inspect, json: bool) -> Done {
    let fields = Fields::of::<Pod>(&[]);
    let format = template(args.format.as_deref(), &fields, json)?;
    let mut all = Vec::new();
    for pod in &args.pods {
        all.push(client.inspect(pod).await?);
    }
    match format {
        Some(format) => {
            let rows: Vec<Row> = all.iter().map(|p| Row::new(Vec::new(), p)).collect();
            format.print(&rows, &fields)?;
        }
        None => output::json(&all),
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_shown_as_they_would_be_typed() {
        let line = |words: &[&str], most| command(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>(), most);
        assert_eq!(line(&["python3", "-m", "http.server"], None), "python3 -m http.server");
        assert_eq!(line(&["sh", "-c", "echo 'a b'\n", ""], None), r"sh -c 'echo '\''a b'\'' ' ''");
        assert_eq!(line(&["sh", "-c", "x"], Some(5)), "sh -…");
        assert_eq!((line(&["ää"], Some(4)), line(&[], Some(4))), ("'ää'".into(), String::new()));
    }
}
