//! The command line: arguments, commands, passphrases, progress, exit codes. The only user of clap.
//!
//! Owns every word that a person reads on a terminal but the errors of the rooms below, which say themselves what
//! happened. Does not own what the commands do: it asks the mount room.

mod args;
mod cache;
mod client;
mod doctor;
pub mod exit;
mod helper;
mod interrupt;
mod key;
mod logging;
mod mount;
mod options;
mod passphrase;
mod profile;
mod progress;
mod rescue;
mod search;

use std::ffi::OsString;
use std::io::Write;

use clap::{CommandFactory, Parser};
use log::LevelFilter;

use args::{Arguments, Command};
use exit::Failure;

/// How much is said.
#[derive(Clone, Copy, Debug)]
struct Voice {
    verbose: u8,
    quiet: bool,
}

/// Runs the command line and returns the exit code.
pub fn run(words: impl IntoIterator<Item = OsString>) -> u8 {
    let words: Vec<OsString> = words.into_iter().collect();
    let commands = Arguments::command();
    let commands: Vec<String> = commands.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    if helper::is_meant(&words, &commands) {
        return help_mount(words);
    }
    match Arguments::try_parse_from(words) {
        Ok(arguments) => ended(command(arguments)),
        Err(usage) => misused(&usage),
    }
}

/// As mount(8) or mount.fuse3 asks.
fn help_mount(words: Vec<OsString>) -> u8 {
    let helper = match helper::Helper::try_parse_from(&words) {
        Ok(helper) => helper,
        Err(usage) => return helper::code(misused(&usage)),
    };
    if helper.fake {
        return exit::OK;
    }
    let voice = Voice { verbose: u8::from(helper.verbose), quiet: false };
    logging::to_stderr(logging::level(LevelFilter::Warn, voice.verbose, voice.quiet));
    let by_name = helper::is_meant(&words[..1], &[]);
    helper::code(ended(mount::mount(&helper::asked(&helper, by_name), voice)))
}

/// For commands that speak to a store themselves.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|e| Failure::error(format!("the runtime cannot start: {e}")))
}

fn misused(usage: &clap::Error) -> u8 {
    // Help and version are "errors" with exit code 0; a closed pipe takes nothing away from them.
    let _ = usage.print();
    u8::try_from(usage.exit_code()).unwrap_or(exit::ERROR)
}

fn ended(result: Result<u8, Failure>) -> u8 {
    match result {
        Ok(code) => code,
        Err(Failure { code, message }) => {
            let _ = writeln!(std::io::stderr(), "{}dripfs: {message}", logging::prefix(log::Level::Error));
            code
        }
    }
}

fn command(arguments: Arguments) -> Result<u8, Failure> {
    let voice = Voice { verbose: arguments.verbose, quiet: arguments.quiet };
    let usual = match &arguments.command {
        Command::Mount(mount) if !mount.background => LevelFilter::Info,
        Command::ServeInBackground { .. } => LevelFilter::Info,
        _ => LevelFilter::Warn,
    };
    let level = logging::level(usual, voice.verbose, voice.quiet);
    if !matches!(arguments.command, Command::ServeInBackground { .. }) {
        logging::to_stderr(level);
    }
    match arguments.command {
        Command::Init(init) => mount::init(&init),
        Command::Mount(args) => mount::mount(&args, voice),
        Command::Sync(args) => client::sync(&args.dir, voice),
        Command::Umount(args) => match (profile::directory(&args.dir, &crate::mount::environment)?, args.dead) {
            (dir, true) => client::clear(&dir),
            (dir, false) => client::umount(&dir, voice),
        },
        Command::Status(args) => client::status(&args),
        Command::Search(args) => search::search(&args),
        Command::Events(args) => client::events(&args.dir),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Cache(args) => cache::cache(&args, voice),
        Command::Key(args) => key::key(&args),
        Command::Rescue(args) => rescue::rescue(&args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut shown(), "dripfs", &mut std::io::stdout());
            Ok(exit::OK)
        }
        Command::ServeInBackground { .. } => mount::serve_in_background(level),
    }
}

/// The command line without what is only for this program itself.
fn shown() -> clap::Command {
    let whole = Arguments::command();
    let commands = whole.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let shown = clap::Command::new("dripfs").version(env!("CARGO_PKG_VERSION")).disable_help_subcommand(true);
    shown.args(whole.get_arguments().cloned()).subcommands(commands)
}

/// What came from another process, for a terminal: control characters there could move the cursor, or worse.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// `1.5 GiB`: one digit after the point, powers of 1024.
fn human_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        let shown: Vec<String> = [0, 1023, 1024, 1536 * 1024, 5 << 30, 3 << 40].map(human_bytes).into();
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.5 MiB", "5.0 GiB", "3.0 TiB"]);
    }

    #[test]
    fn completions_offer_what_is_for_people_and_nothing_else() {
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let mut out = Vec::new();
            clap_complete::generate(shell, &mut shown(), "dripfs", &mut out);
            let text = String::from_utf8(out).unwrap();
            assert!(text.contains("rescue") && text.contains("verbose"), "{shell}");
            assert!(!text.contains(crate::mount::background::COMMAND), "{shell}");
        }
    }

    #[test]
    fn usage_errors_exit_with_2_and_help_with_0() {
        let run = |line: &str| run(std::iter::once("dripfs").chain(line.split(' ')).map(OsString::from));
        assert_eq!(run("mount"), exit::USAGE);
        assert_eq!(run("mount -o nonsense /no/vault /no/dir"), exit::USAGE);
        assert_eq!(run("--version"), exit::OK);
        assert_eq!(run("umount /no/such/mount"), exit::ERROR);
        assert_eq!(run("mount ftp://host/x /tmp"), exit::ERROR);
    }
}
