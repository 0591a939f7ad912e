/* What the files of the probe share. An attack returns 0 or more if it got what it wanted, or -1 with errno; what it tells
 * instead is its answer word for word. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

struct attack {
    const char *name;
    long (*run)(void);
};
#define A(name) { #name, name }
#define END { NULL, NULL }

extern char **environ;
extern const struct attack sockets[], others[], kernel[], programs[], namespaces[], view[], files[], storage[], bombs[], clocks[], sweeps[], newer[];

/* Sets the answer; returns 0. */
long tell(const char *format, ...);
/* One more word of the answer. */
void tell_more(const char *format, ...);
/* A system call with five arguments. */
long sys(long nr, long a, long b, long c, long d, long e);
/* A new or old file opened for writing. */
int create(const char *path);
/* Runs it in a child: 0, or -1 with the child's errno. A child killed by a signal is told. */
long in_child(long (*run)(void));
/* Writes all of a short text into a new file. */
int put(const char *path, const void *bytes, size_t length, mode_t mode);
/* Runs a program with `argument` in a child: 0 if it was executed, else -1 with execve's errno. */
long execute(int directory, const char *path, const char *argument, int flags);
