/* What tells one machine or run from another. */
#include "probe.h"
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <time.h>

static long clock_of(clockid_t clock) {
    struct timespec now;
    return clock_gettime(clock, &now) ? -1 : tell(now.tv_sec < 120 ? "from zero" : "of the host");
}
static long monotonic(void) { return clock_of(CLOCK_MONOTONIC); }
static long boot_time(void) { return clock_of(CLOCK_BOOTTIME); }
static long wall_clock(void) { struct timespec now; return clock_gettime(CLOCK_REALTIME, &now); }
static long host_names(void) {
    struct utsname uts;
    return uname(&uts) ? -1 : tell("%s %s", uts.nodename, uts.domainname);
}
static long identity(void) { return tell("%d %d %d", getuid(), getgid(), getgroups(0, NULL)); }
static long mask(void) { return tell("%03o", umask(0)); }
static long place(void) { char cwd[256]; return tell("%s", getcwd(cwd, sizeof cwd)); }
static long random_bytes(void) { char byte; return sys(SYS_getrandom, (long)&byte, 1, 0, 0, 0); }
static long random_device(void) { char byte; return read(open("/dev/urandom", O_RDONLY), &byte, 1) == 1 ? 0 : -1; }
static long null_device(void) { return open("/dev/null", O_RDWR); }
static long processors(void) { return tell(sysconf(_SC_NPROCESSORS_ONLN) > 0 ? "known" : "none"); }
static long process_ids(void) { return tell("%d %d %d", getpid(), getppid(), getsid(0)); }

const struct attack clocks[] = {
    A(monotonic), A(boot_time), A(wall_clock), A(host_names), A(identity), A(mask), A(place), A(random_bytes), A(random_device), A(null_device),
    A(processors), A(process_ids), END,
};
