/* Every system call number, with nothing, with garbage, and with plausible pointers: what reaches the kernel at all. */
#include "probe.h"
#include <sys/time.h>

enum { LAST = 600 };

struct asked { pid_t child; int answer; };

/* Lets a child make the call: it writes the errno, or 0, into a pipe, and is killed if it has not after a while. */
static struct asked ask(long nr, const long *arguments, long wait_us) {
    int fds[2];
    struct asked asked = { -1, -1 };
    if (pipe(fds)) return asked;
    asked.child = fork();
    if (!asked.child) {
        struct itimerval soon = { .it_value.tv_usec = wait_us };
        setitimer(ITIMER_REAL, &soon, NULL);
        close(fds[0]);
        long got = syscall(nr, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5]);
        int error = got == -1 ? errno : 0;
        if (write(fds[1], &error, sizeof error) != sizeof error) _exit(1);
        _exit(0);
    }
    close(fds[1]);
    asked.answer = fds[0];
    return asked;
}
/* The answer, or -1 if the child did not come back from the call. */
static int hear(struct asked asked) {
    int result = -1;
    if (read(asked.answer, &result, sizeof result) != sizeof result) result = -1;
    if (asked.child > 0) kill(asked.child, SIGKILL), waitpid(asked.child, NULL, 0);
    close(asked.answer);
    return result;
}
/* Calls that end or stop their caller whatever they are given: exit, pause, rt_sigreturn and the like are known to be allowed. */
static int ends(long nr) { return nr == SYS_exit || nr == SYS_exit_group || nr == SYS_pause || nr == SYS_rt_sigreturn || nr == SYS_rt_sigsuspend || nr == SYS_vfork; }
/* The kernel's own trampolines, which no filter is asked about; from anywhere else they are SIGILL. */
static int trampoline(long nr) { return nr == 335 || nr == 336; }

static int refused(int answer) { return answer == ENOSYS || answer == EPERM || answer == EOPNOTSUPP; }

/* Ranges of the numbers whose answer is none of ENOSYS, EPERM and EOPNOTSUPP. A call that waits is one that was let in; but who
 * hears of a refused one may be slow, so those are asked again, all at once and with more time. */
static long reached(const long *arguments) {
    static int answers[LAST + 2];
    static struct asked again[LAST + 1];
    answers[LAST + 1] = ENOSYS;
    for (long nr = 0; nr <= LAST; nr++) answers[nr] = trampoline(nr) ? ENOSYS : ends(nr) ? 0 : hear(ask(nr, arguments, 100000));
    for (long nr = 0; nr <= LAST; nr++) if (answers[nr] < 0) again[nr] = ask(nr, arguments, 900000);
    for (long nr = 0; nr <= LAST; nr++) if (answers[nr] < 0) answers[nr] = hear(again[nr]);
    for (long nr = 0, first = -1; nr <= LAST + 1; nr++) {
        if (!refused(answers[nr]) && first < 0) first = nr;
        if (!refused(answers[nr]) || first < 0) continue;
        if (first == nr - 1) tell_more("%ld", first);
        else tell_more("%ld-%ld", first, nr - 1);
        first = -1;
    }
    return 0;
}
static long numbers_zero(void) { static const long none[6] = { 0 }; return reached(none); }
static long numbers_garbage(void) { static const long garbage[6] = { -1, -1, -1, -1, -1, -1 }; return reached(garbage); }
static long numbers_pointers(void) {
    static char area[4096];
    const long pointers[6] = { (long)area, (long)area, (long)area, (long)area, (long)area, (long)area };
    return reached(pointers);
}
/* No call of the other table comes back. */
static long numbers_x32(void) {
    static const long none[6] = { 0 };
    for (long nr = 0; nr <= LAST; nr++) {
        int answer = hear(ask(0x40000000 + nr, none, 100000));
        if (answer != -1) return tell("%ld:%s", nr, strerrorname_np(answer));
    }
    return tell("none");
}
static long numbers_i386(void) {
    for (long nr = 0; nr <= LAST; nr++) {
        pid_t child = fork();
        if (!child) {
            long result;
            __asm__ volatile("int $0x80" : "=a"(result) : "a"(nr), "b"(0), "c"(0), "d"(0) : "memory");
            _exit(0);
        }
        int status;
        waitpid(child, &status, 0);
        if (WIFEXITED(status)) return tell("%ld", nr);
    }
    return tell("none");
}

static long return_probe(void) { return sys(335, 0, 0, 0, 0, 0); }
static long entry_probe(void) { return sys(336, 0, 0, 0, 0, 0); }

const struct attack sweeps[] = { A(return_probe), A(entry_probe), A(numbers_zero), A(numbers_garbage), A(numbers_pointers), A(numbers_x32), A(numbers_i386), END };
