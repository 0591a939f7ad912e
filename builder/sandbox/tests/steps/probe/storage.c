/* What a step leaves for the collector to find, and what it uses up of its own storage. */
#include "probe.h"
#include <sys/inotify.h>
#include <time.h>

/* Outputs; the harness collects /work/out/artifact. */
static long outputs(void) { return put("/work/out/artifact", "made inside\n", 12, 0600); }
static long out_link_absolute(void) { return symlink("/etc/passwd", "/work/out/artifact"); }
static long out_link_up(void) { return symlink("../../etc/passwd", "/work/out/artifact"); }
static long out_link_loop(void) { return symlink("artifact", "/work/out/artifact"); }
static long out_link_inside(void) { return put("/work/out/real", "x", 1, 0600) ? -1 : symlink("real", "/work/out/artifact"); }
static long out_link_parent(void) { return symlink("/etc", "/work/out/artifact"); }
static long out_fifo(void) { return mkfifo("/tmp/f", 0600) ? -1 : rename("/tmp/f", "/work/out/artifact"); }
static long out_directory(void) { return mkdir("/work/out/artifact", 0700); }
static long out_two_names(void) { return outputs() ? -1 : link("/work/out/artifact", "/work/out/again"); }
static long out_sparse(void) { return ftruncate(create("/work/out/artifact"), 1 << 29); }
static long out_large(void) { static char b[1 << 20]; int fd = create("/work/out/artifact"); for (int i = 0; i < 3; i++) if (write(fd, b, sizeof b) < 0) return -1; return 0; }
static long out_missing(void) { return 0; }
static long out_unreadable(void) { return outputs() ? -1 : chmod("/work/out/artifact", 0); }
static long out_replaced(void) { return rmdir("/work/out") ? -1 : symlink("/", "/work/out"); }
static long out_archive(void) { static const char zip[] = "PK\3\4../../../etc/cron.d/evil"; return put("/work/out/artifact", zip, sizeof zip, 0600); }
static long out_late(void) {
    int fd = create("/work/out/artifact");
    if (write(fd, "made inside\n", 12) != 12) return -1;
    if (fork()) return 0;
    setsid();
    for (;;) { if (pwrite(fd, "late  inside\n", 13, 0) != 13) _exit(1); usleep(500); }
}
static long out_mapped(void) {
    int fd = open("/work/out/artifact", O_CREAT | O_RDWR, 0600);
    if (write(fd, "made inside\n", 12) != 12) return -1;
    char *bytes = mmap(NULL, 12, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (bytes == MAP_FAILED) return -1;
    if (fork()) return 0;
    for (unsigned i = 0;; i++) bytes[0] = 'a' + i % 26;
}
/* Names: bytes that are no text, that look like paths, that are as long as can be, that differ only in normal form. */
static long out_names(void) {
    char longest[256];
    memset(longest, 'n', 255), longest[255] = 0;
    const char *names[] = { "\xff\xfe", "new\nline", "-rf", "...", "a\x1b[2J", "\xe2\x80\xae" "txt", longest, "caf\xc3\xa9", "cafe\xcc\x81", "CON", "a\\b" };
    if (chdir("/work/out")) return -1;
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) if (put(names[i], "x", 1, 0600)) return -1;
    return 0;
}
static long out_deep(void) {
    if (chdir("/work/out")) return -1;
    for (int i = 0; i < 2000; i++) if (mkdir("d", 0700) || chdir("d")) return -1;
    return 0;
}
static long out_many(void) {
    char name[32];
    if (chdir("/work/out")) return -1;
    for (int i = 0; i < 20000; i++) { sprintf(name, "%d", i); int fd = create(name); if (fd < 0) return -1; close(fd); }
    return 0;
}

/* Its own storage and tables. */
static long big_file(void) { signal(SIGXFSZ, SIG_IGN); return ftruncate(create("/work/out/big"), 8LL << 40); }
static long big_file_killed(void) { return ftruncate(create("/work/out/big"), 8LL << 40); }
static long big_allocation(void) { signal(SIGXFSZ, SIG_IGN); return sys(SYS_fallocate, create("/work/out/big"), 0, 0, 8LL << 40, 0); }
static long big_seek(void) { signal(SIGXFSZ, SIG_IGN); return pwrite(create("/work/out/big"), "x", 1, 8LL << 40); }
static long fill(const char *path) {
    static char block[1 << 20];
    int fd = create(path);
    while (write(fd, block, sizeof block) > 0);
    return -1;
}
static long fill_tmp(void) { return fill("/tmp/big"); }
static long fill_shm(void) { return fill("/dev/shm/big"); }
static long files_in(const char *directory, int most) {
    char path[256];
    for (int i = 0; i < most; i++) {
        sprintf(path, "%s/%d", directory, i);
        int fd = create(path);
        if (fd < 0) return -1;
        close(fd);
    }
    return 0;
}
static long inodes_tmp(void) { return files_in("/tmp", 100000); }
static long inodes_shm(void) { return files_in("/dev/shm", 100000); }
static long inodes_links(void) {
    char path[64];
    if (create("/tmp/one") < 0) return -1;
    for (int i = 0; i < 100000; i++) { sprintf(path, "/tmp/l%d", i); if (link("/tmp/one", path)) return -1; }
    return 0;
}
static long descriptors_all(void) { for (int i = 0; i < 1 << 20; i++) if (dup(0) < 0) return -1; return 0; }
static long watches(void) { for (int i = 0; i < 1 << 16; i++) if (inotify_init1(IN_CLOEXEC) < 0) return -1; return 0; }
static long timers(void) { for (int i = 0; i < 1 << 20; i++) { timer_t timer; if (timer_create(CLOCK_MONOTONIC, NULL, &timer)) return -1; } return 0; }
static long signals_queued(void) {
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    for (int i = 0; i < 1 << 20; i++) if (sigqueue(getpid(), SIGRTMIN, (union sigval){ .sival_int = i })) return -1;
    return 0;
}
static long events(void) { for (int i = 0; i < 1 << 20; i++) if (sys(SYS_eventfd2, 0, 0, 0, 0, 0) < 0) return -1; return 0; }
static long locks(void) {
    int fd = create("/tmp/locks");
    for (long i = 0; i < 4000; i++) { struct flock one = { .l_type = F_WRLCK, .l_start = 2 * i, .l_len = 1 }; if (fcntl(fd, F_SETLK, &one)) return -1; }
    return 0;
}
static long huge_arguments(void) {
    char *text = malloc((1 << 20) + 1), *argv[] = { "probe", "nothing", text, text, text, text, text, text, text, text, NULL };
    memset(text, 'a', 1 << 20), text[1 << 20] = 0;
    fflush(stdout);
    execve("/proc/self/exe", argv, environ);
    return -1;
}

const struct attack storage[] = {
    A(outputs), A(out_link_absolute), A(out_link_up), A(out_link_loop), A(out_link_inside), A(out_link_parent), A(out_fifo),
    A(out_directory), A(out_two_names), A(out_sparse), A(out_large), A(out_missing), A(out_unreadable), A(out_replaced), A(out_archive),
    A(out_late), A(out_mapped), A(out_names), A(out_deep), A(out_many), A(big_file), A(big_file_killed), A(big_allocation), A(big_seek),
    A(fill_tmp), A(fill_shm), A(inodes_tmp), A(inodes_shm), A(inodes_links), A(descriptors_all), A(watches), A(timers),
    A(signals_queued), A(events), A(locks), A(huge_arguments), END,
};
