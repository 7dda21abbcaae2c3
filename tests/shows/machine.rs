//! A machine whose work is cut off: by a kill of the drive's process, by a power cut, or for good.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::Vault;
use crate::power::PoweredDisk;
use crate::{CHEAP, between};

/// How a machine's work ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// kill -9 of the drive: what it wrote to the local disk is there.
    Kill,
    /// What was not flushed to the local disk is gone, or there in part.
    PowerCut,
    /// The machine is gone; another one has the vault and the passphrase and nothing else.
    Loss,
}

pub struct Machine {
    end: End,
    machines: u32,
    // Dropped in this order: what lies on the disk goes first.
    vault: Vault,
    disk: Option<PoweredDisk>,
}

impl Machine {
    /// A new vault on a new machine, mounted.
    pub fn new(end: End) -> Option<Machine> {
        let mut vault = Vault::new()?;
        let mut disk = None;
        if end == End::PowerCut {
            let made = PoweredDisk::new(vault.root())?;
            vault.move_to_machine("disk");
            disk = Some(made);
        }
        vault.mount_with(&CHEAP);
        Some(Machine { end, machines: 1, vault, disk })
    }

    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    pub fn dir(&self) -> PathBuf {
        self.vault.mountpoint()
    }

    /// Whether what a program was told is safe on this machine's disk is there after the end.
    pub fn keeps_what_was_fsynced(&self) -> bool {
        self.end != End::Loss
    }

    pub fn umount(&mut self) {
        self.vault.umount();
    }

    /// How many power cuts found something that was not flushed.
    pub fn cuts_with_loss(&self) -> u64 {
        self.disk.as_ref().map_or(0, PoweredDisk::cuts_with_loss)
    }

    fn fail(&mut self) {
        if let Some(disk) = &self.disk {
            disk.cut();
        }
        self.vault.kill_daemons();
    }

    /// The drive is mounted again; where the machine is lost, on another.
    fn start(&mut self) {
        match self.end {
            End::Kill => self.vault.mount_with(&CHEAP),
            End::PowerCut => {
                self.disk.as_ref().expect("made with one").start();
                self.vault.mount_with(&CHEAP);
            }
            End::Loss => {
                let _ = std::fs::remove_dir_all(self.vault.state());
                self.machines += 1;
                self.vault.move_to_machine(&format!("machine-{}", self.machines));
                self.vault.mount_with(&[&CHEAP[..], &["--takeover"]].concat());
            }
        }
    }

    /// Lets a program work on the drive, ends the machine's work some time after the program's first line of output,
    /// mounts again, and returns all lines.
    pub fn fails_under(&mut self, program: &mut Command) -> Vec<String> {
        let program = program.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = program.spawn().expect("the program is installed");
        let (out, mut errors) = (child.stdout.take().expect("asked for"), child.stderr.take().expect("asked for"));
        let (first, begun) = std::sync::mpsc::channel();
        // Read beside it, so that the program never waits for us.
        let reader = std::thread::spawn(move || {
            let lines = BufReader::new(out).lines().map_while(Result::ok);
            // Nobody listens any more once the first has come.
            lines.inspect(|_| _ = first.send(())).collect::<Vec<String>>()
        });
        let complaints = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = errors.read_to_string(&mut text);
            text
        });
        // An end without a line ends the wait too.
        let worked = begun.recv().is_ok();
        // A vault that is all there is left has something only after a round; those begin after five seconds.
        let longest = if self.end == End::Loss || between(0, 3) == 0 { 8_000 } else { 1_200 };
        std::thread::sleep(Duration::from_millis(between(100, longest)));
        self.fail();
        // It ends by the error that it gets; at the latest now.
        let _ = child.kill();
        let _ = child.wait();
        // Not before: it would go on in the directory below the mount.
        self.vault.kill();
        let lines = reader.join().expect("no panic");
        let complaints = complaints.join().expect("no panic");
        assert!(worked, "{program:?} did nothing: {complaints}");
        self.start();
        lines
    }
}
