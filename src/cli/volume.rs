//! `volume`.

use clap::Subcommand;

use super::output::{self, Failure, bytes, say};
use super::prune::{self, How};
use crate::api::client::Client;

#[derive(Debug, Subcommand)]
pub(super) enum Volume {
    /// List volumes
    Ls {
        /// Only names
        #[arg(short, long)]
        quiet: bool,
    },
    /// Make volumes
    Create {
        #[arg(required = true)]
        volumes: Vec<String>,
    },
    /// Show all about volumes
    Inspect {
        #[arg(required = true)]
        volumes: Vec<String>,
    },
    /// Remove volumes that no pod uses
    Rm {
        #[arg(required = true)]
        volumes: Vec<String>,
    },
    /// Remove all volumes that neither a pod nor a snapshot uses
    Prune(How),
}

/// Does what was typed.
pub(super) async fn run(client: &Client, command: Volume, json: bool) -> Result<u8, Failure> {
    match command {
        Volume::Ls { quiet } => {
            let all = client.volumes().await?;
            if json {
                output::json(&all);
            } else if quiet {
                all.iter().for_each(|v| say!("{}", v.name));
            } else {
                let rows: Vec<Vec<String>> = all
                    .iter()
                    .map(|v| {
                        let created = v.created_at.split('.').next().unwrap_or("").replace('T', " ");
                        vec![v.name.clone(), v.size.map_or("?".into(), bytes), created, v.users.join(", ")]
                    })
                    .collect();
                output::table(&["VOLUME", "SIZE", "CREATED (UTC)", "PODS"], &rows);
            }
        }
        Volume::Create { volumes } => {
            for name in &volumes {
                let made = client.create_volume(name).await?;
                if json { output::json(&made) } else { say!("{}", made.name) }
            }
        }
        Volume::Inspect { volumes } => {
            let mut all = Vec::new();
            for name in &volumes {
                all.push(client.inspect_volume(name).await?);
            }
            output::json(&all);
        }
        Volume::Rm { volumes } => {
            return super::commands::each(&volumes, json, async |v| client.remove_volume(v).await.map(|()| None)).await;
        }
        Volume::Prune(how) => return prune::volumes(client, &how, json).await,
    }
    Ok(0)
}
