/* Using up the machine, not ending, not being quiet. Those without a bound of their own run only where the limits hold. */
#include "probe.h"
#include <pthread.h>
#include <sys/shm.h>
#include <time.h>

static long daemon_left(void) {
    if (fork()) return 0;
    setsid();
    if (fork()) _exit(0);
    for (;;) { int fd = open("/work/out/late", O_CREAT | O_WRONLY | O_APPEND, 0600); if (write(fd, "x", 1) != 1) _exit(1); close(fd); usleep(1000); }
}
static long spin(void) { signal(SIGTERM, SIG_IGN); for (;;) sched_yield(); return 0; }
static long spin_all(void) { for (int i = 0; i < 8; i++) if (!fork()) break; return spin(); }
static long sleep_forever(void) { for (;;) pause(); return 0; }
static long stop_self(void) { raise(SIGSTOP); return 0; }
static long stop_children(void) { for (int i = 0; i < 4; i++) if (!fork()) stop_self(); return 0; }
static long deaf(void) { for (int s = 1; s < 65; s++) signal(s, SIG_IGN); for (;;) pause(); return 0; }
static long self_kill(void) { raise(SIGSEGV); return 0; }
static long silent(void) { fclose(stdout); fclose(stderr); close(1); close(2); usleep(50000); _exit(0); }

static long memory(void) { for (;;) { char *p = malloc(1 << 20); if (!p) return -1; memset(p, 1, 1 << 20); } }
/* As much as any build, held for a moment. */
static long memory_some(void) {
    volatile char *p = malloc(96 << 20);
    for (long at = 0; p && at < 96 << 20; at += 4096) p[at] = 1;
    return p ? 0 : -1;
}
static long write_all(int fd) { static char block[1 << 20]; while (write(fd, block, sizeof block) > 0); return -1; }
static long memory_in_tmp(void) { return write_all(create("/tmp/big")); }
static long memory_in_memfd(void) { return write_all(memfd_create("m", 8)); }
static long memory_in_files(void) {
    char path[64];
    for (int i = 0;; i++) { sprintf(path, "/tmp/f%d", i); int fd = create(path); if (fd < 0) return -1; if (write(fd, path, 10) != 10) return -1; close(fd); }
}
static long memory_shared(void) {
    for (;;) {
        int id = shmget(IPC_PRIVATE, 8 << 20, IPC_CREAT | 0600);
        char *p = id < 0 ? (char *)-1 : shmat(id, NULL, 0);
        if (p == (char *)-1) return -1;
        memset(p, 1, 8 << 20);
    }
}
/* As many as the descriptors allow, in each process. */
static long pipes_here(void) {
    static char block[65536];
    for (;;) {
        int fds[2];
        if (pipe2(fds, O_NONBLOCK)) return -1;
        fcntl(fds[1], F_SETPIPE_SZ, 1 << 20);
        while (write(fds[1], block, sizeof block) > 0);
    }
}
static long sockets_here(void) {
    static char block[65536];
    for (;;) {
        int fds[2];
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds)) return -1;
        while (write(fds[0], block, sizeof block) > 0);
    }
}
static long in_many(long (*run)(void)) {
    for (int i = 0; i < 8; i++) if (!fork()) { run(); for (;;) pause(); }
    run();
    return sleep_forever();
}
static long memory_in_pipes(void) { return in_many(pipes_here); }
static long memory_in_sockets(void) { return in_many(sockets_here); }
static long memory_in_tables(void) {
    /* One page touched in each 2 MiB: page tables are what it costs. */
    for (;;) {
        char *p = mmap(NULL, 1L << 36, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) return -1;
        for (long at = 0; at < 1L << 36; at += 2 << 20) p[at] = 1;
    }
}
static long memory_locked(void) { for (;;) { void *p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0); if (p == MAP_FAILED) return -1; } }
static long cached_names(void) {
    /* Lookups of what is not there stay in the kernel's memory, charged to the step. */
    char path[64];
    struct timespec begin, now;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (long i = 0;; i++) {
        sprintf(path, "/work/out/no%ld", i);
        access(path, F_OK);
        if (i % 1024 == 0 && (clock_gettime(CLOCK_MONOTONIC, &now), now.tv_sec - begin.tv_sec > 0)) return 0;
    }
}

static long forks(void) {
    for (int i = 0; i < 100000; i++) { pid_t child = fork(); if (child < 0) return -1; if (!child) { pause(); _exit(0); } }
    return 0;
}
static long forks_some(void) { for (int i = 0; i < 40; i++) { pid_t child = fork(); if (child < 0) return -1; if (!child) { pause(); _exit(0); } } return 0; }
static long fork_bomb(void) { signal(SIGCHLD, SIG_IGN); for (;;) fork(); return 0; }
static void *wait_forever(void *unused) { (void)unused; for (;;) pause(); return NULL; }
static long threads(void) {
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 16384);
    for (int i = 0; i < 100000; i++) { pthread_t thread; int error = pthread_create(&thread, &small, wait_forever, NULL); if (error) { errno = error; return -1; } }
    return 0;
}
static long inode_bomb(void) {
    char path[64];
    for (int i = 0;; i++) { sprintf(path, "/tmp/%d/%d", getpid(), i); if (!i) { sprintf(path, "/tmp/%d", getpid()); mkdir(path, 0700); continue; } close(create(path)); }
    return 0;
}
static long log_flood(void) { static char line[4096]; memset(line, 'L', sizeof line); line[4095] = '\n'; for (;;) if (write(1, line, sizeof line) < 0) return -1; }
static long log_flood_bounded(void) { static char line[4096]; memset(line, 'L', sizeof line); line[4095] = '\n'; for (int i = 0; i < 4096; i++) if (write(1, line, sizeof line) < 0) return -1; return write(1, "\n", 1) < 0; }
static long log_ansi(void) {
    static const char text[] = "\033[2J\033]0;title\007\033]52;c;ZXZpbA==\007\rSTEP 3 PASSED\n\0\xff\xfe\xe2\x80\xae{\"exit\":0}\n\033[A\033[2Kkiln: verified\n";
    return write(1, text, sizeof text - 1) < 0 ? -1 : 0;
}
static long sync_storm(void) {
    int fd = create("/work/out/synced");
    for (int i = 0; i < 2000; i++) if (pwrite(fd, "x", 1, i) != 1 || fsync(fd)) return -1;
    sync();
    return 0;
}
static long denied_flood(void) { for (int i = 0; i < 2000; i++) if (socket(AF_INET, SOCK_STREAM, 0) >= 0) return 0; errno = EPERM; return -1; }

const struct attack bombs[] = {
    A(daemon_left), A(spin), A(spin_all), A(sleep_forever), A(stop_self), A(stop_children), A(deaf), A(self_kill), A(silent), A(memory), A(memory_some), A(forks_some),
    A(memory_in_tmp), A(memory_in_memfd), A(memory_in_files), A(memory_shared), A(memory_in_pipes), A(memory_in_sockets),
    A(memory_in_tables), A(memory_locked), A(cached_names), A(forks), A(fork_bomb), A(threads), A(inode_bomb), A(log_flood),
    A(log_flood_bounded), A(log_ansi), A(sync_storm), A(denied_flood), END,
};
