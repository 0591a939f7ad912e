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

static int entries(const char *path) {
    int count = 0;
    DIR *opened = opendir(path);
    if (!opened) return -1;
    while (readdir(opened)) count++;
    closedir(opened);
    return count - 2;
}

/* What a name in /proc gives to who reads it. */
static const char *content(const char *path) {
    char byte;
    int fd = open(path, O_RDONLY), count = fd < 0 ? -1 : entries(path);
    if (fd < 0) return strerrorname_np(errno);
    if (count >= 0) return count ? "entries" : "empty";
    return read(fd, &byte, 1) == 1 ? "text" : "empty";
}

/* Reads each name in /proc and tries to write it. */
static int use(char **names) {
    char path[256];
    for (; *names; names++) {
        snprintf(path, sizeof path, "/proc/%s", *names);
        const char *found = content(path);
        printf("%s %s %s\n", *names, found, open(path, O_WRONLY) < 0 ? "refused" : "written");
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
