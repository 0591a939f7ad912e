/* What a step is asked to do in the tests of profiles and ends, where a shell would do if an image of the tests had one.
 *
 * `ask WHAT ARGUMENT...`; prints what there is to tell. No dependency but the C library. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

/* Prints those of the names in /proc that exist, by whichever call. */
static int there(char **names) {
    char path[256], link[16];
    for (; *names; names++) {
        snprintf(path, sizeof path, "/proc/%s", *names);
        int fd = open(path, O_PATH | O_NOFOLLOW);
        if (fd >= 0 || !access(path, F_OK) || readlink(path, link, sizeof link) >= 0) puts(*names);
        if (fd >= 0) close(fd);
    }
    return 0;
}

static int list(const char *directory) {
    DIR *opened = opendir(directory);
    if (!opened) return 1;
    for (struct dirent *entry; (entry = readdir(opened));)
        if (entry->d_name[0] != '.') puts(entry->d_name);
    return 0;
}

/* Reads a byte of each name in /proc and tries to write it. */
static int use(char **names) {
    char path[256], byte;
    for (; *names; names++) {
        snprintf(path, sizeof path, "/proc/%s", *names);
        int readable = open(path, O_RDONLY), got = readable >= 0 && read(readable, &byte, 1) == 1;
        int writable = open(path, O_WRONLY);
        printf("%s %s %s\n", *names, got ? "read" : strerrorname_np(errno), writable < 0 ? strerrorname_np(errno) : "written");
    }
    return 0;
}

/* Fills a directory's file system with one file, or with files, and fails. */
static int fill(const char *directory, int with_files) {
    char path[256], block[65536] = { 1 };
    for (int number = 0;; number++) {
        snprintf(path, sizeof path, "%s/%d", directory, number);
        int fd = open(path, O_CREAT | O_WRONLY, 0600);
        if (fd < 0) return 3;
        while (!with_files)
            if (write(fd, block, sizeof block) <= 0 && write(fd, block, 1) <= 0) return 3;
        close(fd);
    }
}

static void leave(int signal) { (void)signal; _exit(7); }

/* Waits for the end of its time: leaves when asked to, or does not. */
static _Noreturn void wait_for_end(int stubborn) {
    signal(SIGTERM, stubborn ? SIG_IGN : leave);
    puts("waiting");
    fflush(stdout);
    for (;;) pause();
}

static long answer(const char *what, long result) {
    printf("%s %s\n", what, result < 0 ? strerrorname_np(errno) : "OK");
    return result;
}

/* Everything that a debugger does to its child, and none of it to the sandbox init. */
static int debug(void) {
    static long secret = 1, seen;
    struct iovec here = { &seen, sizeof seen }, there = { &secret, sizeof secret };
    pid_t child = fork();
    if (!child) {
        secret = 42;
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        _exit(secret == 43 ? 0 : 1);
    }
    int status = 0;
    waitpid(child, &status, WUNTRACED);
    answer("stopped", WIFSTOPPED(status) ? 0 : -1);
    answer("peek", ptrace(PTRACE_PEEKDATA, child, &secret, 0) == 42 ? 0 : -1);
    answer("read", process_vm_readv(child, &here, 1, &there, 1, 0) == sizeof seen && seen == 42 ? 0 : -1);
    seen = 43;
    answer("write", process_vm_writev(child, &here, 1, &there, 1, 0));
    answer("registers", ptrace(PTRACE_GETREGS, child, 0, &(struct user_regs_struct){ 0 }));
    if (answer("go", ptrace(PTRACE_CONT, child, 0, 0)) < 0) kill(child, SIGCONT);
    waitpid(child, &status, 0);
    printf("child %d\n", status);
    answer("init", ptrace(PTRACE_SEIZE, 1, 0, 0));
    answer("read init", process_vm_readv(1, &here, 1, &there, 1, 0));
    return 0;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "", *argument = argc > 2 ? argv[2] : "/";
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!strcmp(what, "there")) return there(argv + 2);
    if (!strcmp(what, "list")) return list(argument);
    if (!strcmp(what, "use")) return use(argv + 2);
    if (!strcmp(what, "fill")) return fill(argument, 0);
    if (!strcmp(what, "fill_files")) return fill(argument, 1);
    if (!strcmp(what, "polite")) wait_for_end(0);
    if (!strcmp(what, "stubborn")) wait_for_end(1);
    if (!strcmp(what, "debug")) return debug();
    if (!strcmp(what, "big")) {
        int fd = open("big", O_CREAT | O_WRONLY, 0600);
        return fd < 0 || pwrite(fd, "x", 1, (off_t)1 << 40) < 0 ? 4 : 0;
    }
    return 99;
}
