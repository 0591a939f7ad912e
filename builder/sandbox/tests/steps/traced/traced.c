/*
 * The traced step: one static multi-call program, each name a way to execute something or to be denied something.
 * No dependency but the C library.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

extern char **environ;

static int run(const char *path, char *const argv[]) {
    pid_t child = fork();
    if (!child) { execv(path, argv); _exit(100 + errno); }
    int status = 0;
    waitpid(child, &status, 0);
    return WEXITSTATUS(status);
}

/* A copy of this program, or of a script, at `to`. */
static void copy(const char *to, const char *tail) {
    char block[65536];
    int from = open("/proc/self/exe", O_RDONLY), out = open(to, O_CREAT | O_WRONLY | O_TRUNC, 0755);
    for (ssize_t got; (got = read(from, block, sizeof block)) > 0;) if (write(out, block, got) != got) exit(2);
    if (write(out, tail, strlen(tail)) < 0) exit(2);
    close(from); close(out);
}
static void script(const char *to, const char *text) {
    int out = open(to, O_CREAT | O_WRONLY | O_TRUNC, 0755);
    if (write(out, text, strlen(text)) < 0) exit(2);
    close(out);
}
#define RUN(path, ...) run(path, (char *const[]) { __VA_ARGS__, NULL })

static int tree(void) {
    RUN("/traced", "forked", "nothing");
    if (!vfork()) { execl("/traced", "vforked", "nothing", NULL); _exit(1); }
    wait(NULL);
    int fds[2];
    if (pipe(fds)) return 1;
    if (!fork()) {
        if (!fork()) { setsid(); execl("/traced", "daemon", "nothing", NULL); }
        _exit(0);
    }
    close(fds[1]);
    char byte;
    if (read(fds[0], &byte, 1)) return 1; /* until the daemon is gone */
    script("/tmp/script", "#!/traced nothing\n");
    RUN("/tmp/script", "script", "of \"its\"\n own");
    copy("/work/out/made", "made here");
    RUN("/work/out/made", "made", "nothing");
    if (chdir("/work/out")) return 1;
    RUN("./made", "relative", "nothing");
    int fd = open("/work/out/made", O_RDONLY);
    unlink("/work/out/made");
    if (!fork()) { char *const argv[] = { "fd", "nothing", NULL }; fexecve(fd, argv, environ); _exit(1); }
    wait(NULL);
    RUN("/nowhere", "nowhere");
    return RUN("/traced", "", "nothing", "\xff\\");
}

static int long_argv(void) {
    static char text[100000];
    memset(text, 'x', sizeof text - 1);
    return RUN("/traced", "long", "nothing", text);
}

/* A file that is written over and over while it is executed over and over: whoever runs is what was hashed. */
static volatile int done;
static void *rewrite(void *unused) {
    for (int i = 0; !done; i++) {
        char text[64];
        snprintf(text, sizeof text, "#!/traced nothing %08d\n", i);
        int fd = open("/tmp/changing", O_WRONLY);
        if (fd >= 0 && pwrite(fd, text, strlen(text), 0) < 0) exit(2);
        close(fd);
        usleep(300);
    }
    return unused;
}
static int race(void) {
    pthread_t thread;
    script("/tmp/changing", "#!/traced nothing 00000000\n");
    pthread_create(&thread, NULL, rewrite, NULL);
    for (int tries = 0, ran = 0; tries < 5000 && ran < 50; tries++) ran += RUN("/tmp/changing", "changing") == 0;
    done = 1;
    pthread_join(thread, NULL);
    return 0;
}

static int many(int count) { for (int i = 0; i < count; i++) RUN("/traced", "many", "nothing"); return 0; }
static int deny(int count) {
    for (int i = 0; i < count; i++) { socket(AF_INET, SOCK_STREAM, 0); }
    return 0;
}
static int deny_landlock(int count) { for (int i = 0; i < count; i++) mkdir("/dev/shm/dir", 0700); return 0; }
static int deny_view(int count) { for (int i = 0; i < count; i++) open("/evil", O_CREAT | O_WRONLY, 0600); return 0; }

static int denials(void) {
    socket(AF_NETLINK, SOCK_RAW, 0);
    unshare(CLONE_NEWUSER);
    setxattr("/traced", "user.k", "v", 1, 0);
    mkdir("/dev/shm/dir", 0700);
    open("/evil", O_CREAT | O_WRONLY, 0600);
    open("/work/out/../../inputs/data", O_WRONLY);
    kill(1, SIGKILL);
    chown("/traced", 0, 0);
    close(open("/tmp/plain", O_CREAT | O_WRONLY, 0644));
    RUN("/tmp/plain", "plain");
    long limit[2] = { 1 << 20, 1 << 20 };
    syscall(SYS_prlimit64, 0, 7, limit, 0);
    syscall(SYS_memfd_create, "m", 0x10);
    return 0;
}

/* Whatever could switch a source off. */
static int blind(void) {
    struct { unsigned long fs, net, scope; } attr = { 1 << 13, 0, 0 };
    int ruleset = syscall(SYS_landlock_create_ruleset, &attr, sizeof attr, 0);
    if (ruleset >= 0 || errno != ENOSYS) return 1;
    prctl(PR_SET_DUMPABLE, 0);
    prctl(PR_SET_NAME, "kiln");
    socket(AF_NETLINK, SOCK_RAW, 9);
    syscall(SYS_fanotify_init, 0, 0);
    for (int fd = 0; fd < 1024; fd++) if (fd > 2) close(fd);
    syscall(SYS_close_range, 3, ~0U, 0);
    kill(-1, SIGKILL);
    kill(1, SIGKILL);
    mkdir("/dev/shm/dir", 0700);
    return RUN("/traced", "blind", "nothing");
}

int main(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "";
    int count = argc > 2 ? atoi(argv[2]) : 0;
    if (!strcmp(name, "nothing")) return 0;
    if (!strcmp(name, "nothing 00000000")) return 0;
    if (!strcmp(name, "tree")) return tree();
    if (!strcmp(name, "long_argv")) return long_argv();
    if (!strcmp(name, "race")) return race();
    if (!strcmp(name, "many")) return many(count);
    if (!strcmp(name, "deny")) return deny(count);
    if (!strcmp(name, "deny_landlock")) return deny_landlock(count);
    if (!strcmp(name, "deny_view")) return deny_view(count);
    if (!strcmp(name, "denials")) return denials();
    if (!strcmp(name, "blind")) return blind();
    return 0;
}
