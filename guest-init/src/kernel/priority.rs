//! Which thread runs first where there are fewer processors than work. New threads inherit a nice value, so it is only for a piece of work.

/// Nice value of what the program waits for longest.
const SOONER: libc::c_int = -10;
/// Nice value of what nothing waits for.
const LATER: libc::c_int = 19;
const USUAL: libc::c_int = 0;

/// Does work before that of other threads.
pub fn sooner<T>(work: impl FnOnce() -> T) -> T {
    with(SOONER, work)
}

/// Does work in the time that other threads leave.
pub fn later<T>(work: impl FnOnce() -> T) -> T {
    with(LATER, work)
}

fn with<T>(nice: libc::c_int, work: impl FnOnce() -> T) -> T {
    set(nice);
    let done = work();
    set(USUAL);
    done
}

/// Without the right to do so, for example in a unit test, the work is done like any other.
fn set(nice: libc::c_int) {
    // SAFETY: the call takes numbers only; 0 is the calling thread.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
}

/// Lets this thread run before every thread without a real-time priority, for work that is short.
pub fn real_time() {
    // SAFETY: the structure is integers (more of them in musl), for which zero is a value.
    let mut lowest: libc::sched_param = unsafe { std::mem::zeroed() };
    lowest.sched_priority = 1;
    // SAFETY: pthread_self is this thread, which lives, and the parameter is a whole structure of ours.
    let _ = unsafe { libc::pthread_setschedparam(libc::pthread_self(), libc::SCHED_RR, &raw const lowest) };
}
