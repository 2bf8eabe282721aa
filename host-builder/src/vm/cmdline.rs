//! The kernel command line of a guest: the console, options of guest-init, and the container's command at the end.

use crate::common::error::{Error, Result};

/// Console on the serial port; an end when the kernel panics; no limit of half the memory for the initramfs.
const BASE: &str = "console=ttyS0 panic=-1 rootfstype=ramfs";
/// What an x86 kernel holds, less the terminator (COMMAND_LINE_SIZE).
const MOST: usize = 2047;
/// The kernel panics over more arguments for init (CONFIG_INIT_ENV_ARG_LIMIT is 32, and it counts its own).
const MOST_WORDS: usize = 30;

/// Puts it together. `append` goes before the command.
pub fn build(has_gpu: bool, append: Option<&str>, command: &[String]) -> Result<String> {
    let mut line = BASE.to_owned();
    if has_gpu {
        line.push_str(" HAS_GPU=1");
    }
    if let Some(append) = append.map(str::trim).filter(|append| !append.is_empty()) {
        check(append)?;
        if !command.is_empty() && append.split_whitespace().any(|word| word == "--") {
            return Err(Error::new(format!("two commands: one in --append {append:?}, and one after `--`"))
                .hint("pass the command once, after `--`"));
        }
        line.push(' ');
        line.push_str(append);
    }
    if !command.is_empty() {
        line.push_str(" --");
    }
    for word in command {
        line.push(' ');
        line.push_str(&quoted(word)?);
    }
    if command.len() > MOST_WORDS {
        return Err(Error::new(format!(
            "the command has {} words (the kernel accepts at most {MOST_WORDS} after ` -- `)",
            command.len()
        ))
        .hint("put the command into a config.json: --config FILE"));
    }
    if line.len() > MOST {
        return Err(Error::new(format!(
            "the kernel command line has {} bytes (expected at most {MOST})",
            line.len()
        ))
        .hint("put the command into a config.json: --config FILE"));
    }
    Ok(line)
}

/// The kernel has quotes, and no way to write one.
fn quoted(word: &str) -> Result<String> {
    check(word)?;
    if word.contains('"') {
        return Err(Error::new(format!("{word:?}: the kernel command line cannot contain a double quote"))
            .hint("put the command into a config.json: --config FILE"));
    }
    let plain = !word.is_empty() && !word.contains(char::is_whitespace);
    Ok(if plain { word.to_owned() } else { format!("\"{word}\"") })
}

fn check(text: &str) -> Result<()> {
    if text.contains(|c: char| c.is_control()) {
        return Err(Error::new(format!(
            "{text:?}: the kernel command line cannot contain control characters"
        ))
        .hint("put the command into a config.json: --config FILE"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::config::Config;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn each_part_has_its_place() {
        assert_eq!(build(false, None, &[]).unwrap(), BASE);
        let line =
            build(true, Some(" gpu_initrd.linger=9s "), &words(&["sh", "-c", "echo a b", ""])).unwrap();
        assert_eq!(line, format!("{BASE} HAS_GPU=1 gpu_initrd.linger=9s -- sh -c \"echo a b\" \"\""));
    }

    #[test]
    fn the_guest_reads_the_command_as_it_was_given() {
        let command = words(&["sh", "-c", "nvidia-smi -L; echo '--' done", "", "a=b", "--", "x.y=1"]);
        let config = Config::from_cmdline(&build(true, Some("quiet"), &command).unwrap()).unwrap();
        assert_eq!(config.command(), command);
        assert!(config.has_gpu && config.unknown.is_empty());
    }

    #[test]
    fn what_the_kernel_could_not_hold_is_refused() {
        assert!(build(false, None, &words(&["echo", "a\"b"])).is_err());
        assert!(build(false, None, &words(&["echo", "a\nb"])).is_err());
        assert!(build(false, Some("quiet -- sh"), &words(&["sh"])).is_err());
        assert!(build(false, Some("quiet -- sh"), &[]).is_ok());
        let error = build(false, None, &words(&["x".repeat(2048).as_str()])).unwrap_err().to_string();
        assert!(error.contains("expected at most 2047"), "{error}");
    }
}
