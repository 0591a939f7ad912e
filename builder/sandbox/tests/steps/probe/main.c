/* The hostile step: a static multi-call program, one attack for each name, run alone in a fresh sandbox.
 *
 * `probe NAME...` prints one line for each name: the name, then OK if the attack succeeded, the name of the error, or what there
 * is to tell. Some names do not return (they are killed, spin, or leave a process behind). No dependency but the C library. */
#include "probe.h"
#include <sys/utsname.h>
#include <time.h>

static char answer[65536];

long tell(const char *format, ...) {
    va_list list;
    va_start(list, format);
    vsnprintf(answer, sizeof answer, format, list);
    va_end(list);
    return 0;
}

void tell_more(const char *format, ...) {
    size_t used = strlen(answer);
    va_list list;
    va_start(list, format);
    if (used && used < sizeof answer - 2) answer[used++] = ' ';
    vsnprintf(answer + used, sizeof answer - used, format, list);
    va_end(list);
}

long sys(long nr, long a, long b, long c, long d, long e) { return syscall(nr, a, b, c, d, e); }

int create(const char *path) { return open(path, O_CREAT | O_WRONLY, 0600); }

int put(const char *path, const void *bytes, size_t length, mode_t mode) {
    int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, mode);
    if (fd < 0 || write(fd, bytes, length) != (ssize_t)length) return -1;
    return close(fd);
}

static long ended(pid_t child) {
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child) return -1;
    if (WIFSIGNALED(status)) return tell("SIG%s", sigabbrev_np(WTERMSIG(status)));
    errno = WEXITSTATUS(status);
    return errno ? -1 : 0;
}

long in_child(long (*run)(void)) {
    fflush(stdout);
    pid_t child = fork();
    if (!child) _exit(run() < 0 ? errno : 0);
    return ended(child);
}

long execute(int directory, const char *path, const char *argument, int flags) {
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        char *argv[] = { "probe", (char *)argument, NULL };
        syscall(SYS_execveat, directory, path, argv, environ, flags);
        _exit(errno);
    }
    return ended(child);
}

static void say(const char *name, long result) {
    int error = errno;
    if (*answer) printf("%s %s\n", name, answer);
    else if (result >= 0) printf("%s OK\n", name);
    else printf("%s %s\n", name, strerrorname_np(error) ? strerrorname_np(error) : "unknown error");
    fflush(stdout);
}

/* Everything about itself that a step should find fixed. */
static void facts(int argc, char **argv) {
    struct utsname uts;
    struct timespec up;
    char cwd[4096];
    uname(&uts);
    clock_gettime(CLOCK_BOOTTIME, &up);
    printf("argv");
    for (int i = 0; i < argc; i++) printf(" [%s]", argv[i]);
    printf("\nenv");
    for (char **entry = environ; *entry; entry++) printf(" [%s]", *entry);
    mode_t mask = umask(0);
    printf("\npid %d uid %d gid %d groups %d umask %03o\n", getpid(), getuid(), getgid(), getgroups(0, NULL), mask);
    printf("host %s domain %s cwd %s session %d\n", uts.nodename, uts.domainname, getcwd(cwd, sizeof cwd), getsid(0) == getpid());
    printf("uptime %s\n", up.tv_sec < 60 ? "from zero" : "of the host");
}

/* What a program that was executed with more rights than its parent would show. */
static int rights(void) {
    struct { uint32_t version; int pid; } head = { 0x20080522, 0 };
    uint32_t sets[6] = { 0 };
    uid_t real, effective, saved;
    getresuid(&real, &effective, &saved);
    sys(SYS_capget, (long)&head, (long)sets, 0, 0, 0);
    return real == 1000 && effective == 1000 && saved == 1000 && !(sets[0] | sets[1] | sets[2] | sets[3] | sets[4] | sets[5]) ? 0 : EPERM;
}

static const struct attack *groups[] = { sockets, others, kernel, programs, namespaces, view, files, storage, bombs, clocks, sweeps, newer };

static const struct attack *find(const char *name) {
    for (unsigned g = 0; g < sizeof groups / sizeof *groups; g++)
        for (const struct attack *attack = groups[g]; attack->name; attack++)
            if (!strcmp(attack->name, name)) return attack;
    return NULL;
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "facts")) return facts(argc, argv), 0;
    if (argc > 2 && !strcmp(argv[1], "exit")) return atoi(argv[2]);
    if (argc > 1 && !strcmp(argv[1], "nothing")) return 0;
    if (argc > 1 && !strcmp(argv[1], "rights")) return rights();
    if (argc > 1 && !strcmp(argv[1], "names")) {
        for (unsigned g = 0; g < sizeof groups / sizeof *groups; g++)
            for (const struct attack *attack = groups[g]; attack->name; attack++) puts(attack->name);
        return 0;
    }
    for (int i = 1; i < argc; i++) {
        const struct attack *attack = find(argv[i]);
        if (!attack) return printf("%s UNKNOWN\n", argv[i]), 99;
        errno = 0;
        *answer = 0;
        say(argv[i], attack->run());
    }
    return 0;
}
