//! The power button of a virtual machine: QEMU's `system_powerdown`, Cloud Hypervisor's `power-button`. It is a key of an input
//! device.

use super::stop::StopSwitch;
use crate::status::helper;
use image::event::StopBy;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Input devices in sysfs.
const DEVICES: &str = "/sys/class/input";
/// `KEY_POWER` of linux/input-event-codes.h.
const KEY_POWER: usize = 116;
/// `EV_KEY` of the same file.
const EV_KEY: u16 = 1;
/// Size of `struct input_event` (linux/input.h): two longs, type, code, value.
const EVENT: usize = 2 * size_of::<libc::c_long>() + 8;
/// How long the devices are waited for: the module may be loaded but its device not registered yet.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(200);

/// Follows every power button in a thread of its own.
///
/// # Errors
/// If the thread cannot be started.
pub fn follow(switch: &StopSwitch) -> io::Result<()> {
    let (board, switch) = (switch.board(), switch.clone());
    let search = move || {
        for _ in 0..PATIENCE.as_millis() / PAUSE.as_millis() {
            let buttons = buttons(Path::new(DEVICES));
            if !buttons.is_empty() {
                for button in buttons {
                    follow_one(button, switch.clone());
                }
                return;
            }
            std::thread::sleep(PAUSE);
        }
        log::debug!("this guest has no power button");
    };
    helper::start("buttons", board, search)
}

fn follow_one(device: PathBuf, switch: StopSwitch) {
    let board = switch.board().clone();
    let read = move || match read(&device, &switch) {
        Ok(()) => log::debug!("{} has no more events", device.display()),
        Err(error) => log::warn!("cannot follow the power button: {}: {error}", device.display()),
    };
    if let Err(error) = helper::start("button", &board, read) {
        log::warn!("cannot follow the power button: cannot start a thread: {error}");
    }
}

fn read(device: &Path, switch: &StopSwitch) -> io::Result<()> {
    let mut file = File::open(device)?;
    let mut event = [0; EVENT];
    loop {
        file.read_exact(&mut event)?;
        if is_press(&event) {
            switch.ask(StopBy::PowerButton, libc::SIGTERM, None);
        }
    }
}

/// Returns the device nodes of the input devices that have a power key.
fn buttons(devices: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(devices).into_iter().flatten().flatten();
    let has_key = |path: &Path| {
        let keys = fs::read_to_string(path.join("device/capabilities/key")).unwrap_or_default();
        has_bit(&keys, KEY_POWER)
    };
    let names = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("event"));
    let buttons = names.filter(|entry| has_key(&entry.path()));
    buttons.map(|entry| Path::new("/dev/input").join(entry.file_name())).collect()
}

/// Returns whether a bitmap of sysfs has a bit: hexadecimal words of the size of a long, the highest first.
fn has_bit(text: &str, bit: usize) -> bool {
    let size = libc::c_ulong::BITS as usize;
    let word = text.split_whitespace().rev().nth(bit / size);
    word.and_then(|word| u64::from_str_radix(word, 16).ok()).is_some_and(|word| word >> (bit % size) & 1 == 1)
}

/// Returns whether an event is a press of the power key.
fn is_press(event: &[u8; EVENT]) -> bool {
    let [.., t0, t1, c0, c1, v0, v1, v2, v3] = *event;
    u16::from_ne_bytes([t0, t1]) == EV_KEY
        && usize::from(u16::from_ne_bytes([c0, c1])) == KEY_POWER
        && i32::from_ne_bytes([v0, v1, v2, v3]) == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_key_is_found_in_the_bitmap_of_a_device() {
        // QEMU's ACPI power button, and an AT keyboard without that key.
        assert!(has_bit("10000000000000 0\n", KEY_POWER));
        assert!(!has_bit("402000000 3803078f800d001 feffffdfffefffff fffffffffffffffe\n", 300));
        assert!(!has_bit("10000000000000\n", KEY_POWER));
        assert!(!has_bit("", KEY_POWER) && !has_bit("x y", KEY_POWER));
    }

    #[test]
    fn only_a_press_of_the_power_key_counts() {
        let event = |kind: u16, code: u16, value: i32| {
            let mut event = [0; EVENT];
            event[EVENT - 8..EVENT - 6].copy_from_slice(&kind.to_ne_bytes());
            event[EVENT - 6..EVENT - 4].copy_from_slice(&code.to_ne_bytes());
            event[EVENT - 4..].copy_from_slice(&value.to_ne_bytes());
            event
        };
        assert!(is_press(&event(1, 116, 1)));
        for (kind, code, value) in [(1, 116, 0), (1, 117, 1), (0, 116, 1)] {
            assert!(!is_press(&event(kind, code, value)));
        }
    }

    #[test]
    fn only_devices_with_the_key_are_buttons() {
        let dir = tempfile::tempdir().unwrap();
        for (name, keys) in [("event0", "10000000000000 0"), ("event1", "ff"), ("mouse0", "10000000000000 0")]
        {
            fs::create_dir_all(dir.path().join(name).join("device/capabilities")).unwrap();
            fs::write(dir.path().join(name).join("device/capabilities/key"), keys).unwrap();
        }
        assert_eq!(buttons(dir.path()), [Path::new("/dev/input/event0")]);
        assert!(buttons(&dir.path().join("none")).is_empty());
    }
}
