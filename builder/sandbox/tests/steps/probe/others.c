/* Other processes: signals, tracing, what procfs shows of them, objects that outlive their maker. */
#include "probe.h"
#include <dirent.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>

static long kill_init(void) { return kill(1, SIGKILL); }
static long kill_all(void) { return kill(-1, SIGKILL); }
/* Its group is of another namespace, and so has no number here: 0 would be one's own. */
static long kill_group_of_init(void) { int group = getpgid(1); return group > 0 ? kill(-group, SIGKILL) : (errno = ESRCH, -1); }
static long queue_to_init(void) {
    siginfo_t info = { .si_signo = SIGTERM, .si_code = SI_QUEUE, .si_pid = 1 };
    return sys(SYS_rt_sigqueueinfo, 1, SIGTERM, (long)&info, 0, 0);
}
static long pidfd_kill_init(void) {
    int fd = sys(SYS_pidfd_open, 1, 0, 0, 0, 0);
    return fd < 0 ? -1 : sys(SYS_pidfd_send_signal, fd, SIGKILL, 0, 0, 0);
}
/* Every pid there can be: who is not absent. */
static long signal_walk(void) {
    for (int pid = 1; pid < 10000; pid++)
        if (pid != getpid() && (!kill(pid, 0) || errno != ESRCH)) tell_more("%d:%s", pid, kill(pid, 0) ? strerrorname_np(errno) : "OK");
    return 0;
}
/* Lets the kernel send the signal: if init took it, there would be no answer. */
static long signal_through_pipe(void) {
    int fds[2];
    if (pipe(fds) || fcntl(fds[0], F_SETOWN, 1) || fcntl(fds[0], F_SETSIG, SIGKILL) || fcntl(fds[0], F_SETFL, O_ASYNC | O_NONBLOCK)) return -1;
    long sent = write(fds[1], "x", 1);
    return usleep(20000), sent;
}
static long group_of_init(void) { return setpgid(0, 1); }
static long limit_init(void) { struct rlimit limit = { 0, 0 }; return sys(SYS_prlimit64, 1, RLIMIT_FSIZE, (long)&limit, 0, 0); }
static long nice_init(void) { return setpriority(PRIO_PROCESS, 1, 19); }
static long affinity_init(void) { unsigned long mask = 1; return sys(SYS_sched_setaffinity, 1, sizeof mask, (long)&mask, 0, 0); }
static long scheduler_init(void) { struct sched_param p = { 0 }; return sched_setscheduler(1, SCHED_IDLE, &p); }
static long ioprio_init(void) { return sys(SYS_ioprio_set, 1, 1, 3 << 13, 0, 0); }

static long ptrace_init(void) { return ptrace(PTRACE_SEIZE, 1, 0, 0); }
static long ptrace_attach_init(void) { return ptrace(PTRACE_ATTACH, 1, 0, 0); }
static long traceme(void) { return ptrace(PTRACE_TRACEME, 0, 0, 0); }
static long ptrace_child(void) {
    pid_t child = fork();
    if (!child) for (;;) pause();
    long result = ptrace(PTRACE_SEIZE, child, 0, 0);
    int error = errno;
    kill(child, SIGKILL);
    errno = error;
    return result;
}
static long pidfd_steal(void) { int fd = sys(SYS_pidfd_open, 1, 0, 0, 0, 0); return fd < 0 ? -1 : sys(SYS_pidfd_getfd, fd, 0, 0, 0, 0); }
static long pidfd_steal_child(void) {
    pid_t child = fork();
    if (!child) for (;;) pause();
    long result = sys(SYS_pidfd_getfd, sys(SYS_pidfd_open, child, 0, 0, 0, 0), 0, 0, 0, 0);
    int error = errno;
    kill(child, SIGKILL);
    errno = error;
    return result;
}
static long vm(long call, int pid) { char b; struct { void *p; size_t l; } v = { &b, 1 }; return sys(call, pid, (long)&v, 1, (long)&v, 1); }
static long read_init(void) { return vm(SYS_process_vm_readv, 1); }
static long write_init(void) { return vm(SYS_process_vm_writev, 1); }
static long read_self(void) { return vm(SYS_process_vm_readv, getpid()); }
static long compare_init(void) { return sys(SYS_kcmp, 1, getpid(), 0, 0, 0); }
static long advise_init(void) { int fd = sys(SYS_pidfd_open, 1, 0, 0, 0, 0); return sys(SYS_process_madvise, fd, 0, 0, 20, 0); }
static long release_init(void) { int fd = sys(SYS_pidfd_open, 1, 0, 0, 0, 0); return sys(SYS_process_mrelease, fd, 0, 0, 0, 0); }
static long robust_of_init(void) { void *list; size_t size; return sys(SYS_get_robust_list, 1, (long)&list, (long)&size, 0, 0); }

static long init_environ(void) { return open("/proc/1/environ", O_RDONLY); }
static long init_root(void) { return open("/proc/1/root", O_RDONLY); }
static long init_mem(void) { return open("/proc/1/mem", O_RDWR); }
static long init_maps(void) { return open("/proc/1/maps", O_RDONLY); }
static long init_fd(void) { return open("/proc/1/fd/0", O_RDWR); }
static long init_exe(void) { return open("/proc/1/exe", O_RDONLY); }
static long init_cwd(void) { return chdir("/proc/1/cwd"); }
static long init_namespace(void) { return open("/proc/1/ns/net", O_RDONLY); }
static long self_exe_write(void) { return open("/proc/self/exe", O_WRONLY); }
/* What procfs shows at all; its own processes are one. */
static long proc_listing(void) {
    struct dirent **names;
    int count = scandir("/proc", &names, NULL, alphasort);
    for (int i = 0; i < count; i++)
        if (names[i]->d_name[0] != '.' && atoi(names[i]->d_name) != getpid()) tell_more("%s", names[i]->d_name);
    return count;
}
/* Everything below a directory that can be opened for writing; links are not followed, descriptors not tried. */
static int writable(int at, const char *name, int depth) {
    int found = 0, fd = openat(at, name, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    if (fd >= 0) return close(fd), tell_more("%s", name), 1;
    fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (fd < 0 || depth > 8) return 0;
    DIR *directory = fdopendir(fd);
    for (struct dirent *entry; (entry = readdir(directory));)
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..")) found += writable(fd, entry->d_name, depth + 1);
    return closedir(directory), found;
}
static long proc_write_walk(void) { if (writable(AT_FDCWD, "/proc", 0)) return 0; errno = EROFS; return -1; }
static long root_write_walk(void) {
    int found = 0;
    static const char *trees[] = { "/usr", "/etc", "/inputs", "/work" };
    for (unsigned i = 0; i < 4; i++) found += strcmp(trees[i], "/work") ? writable(AT_FDCWD, trees[i], 0) : 0;
    errno = EROFS;
    return found ? 0 : -1;
}

/* What one step leaves and another looks for. */
enum { KEY = 0x4b494c4e };
static long leave_objects(void) {
    int shm = shmget(KEY, 4096, IPC_CREAT | 0666), sem = semget(KEY, 1, IPC_CREAT | 0666), msg = msgget(KEY, IPC_CREAT | 0666);
    if (shm < 0 || sem < 0 || msg < 0) return -1;
    struct { long type; char text[8]; } message = { 1, "left" };
    int lock = create("/work/out/locked"), tmp = create("/tmp/left"), memory = create("/dev/shm/left");
    struct flock whole = { .l_type = F_WRLCK };
    if (lock < 0 || tmp < 0 || memory < 0 || fcntl(lock, F_SETLK, &whole)) return -1;
    return msgsnd(msg, &message, sizeof message.text, 0);
}
static long find_shm(void) { return shmget(KEY, 1, 0); }
static long find_semaphore(void) { return semget(KEY, 1, 0); }
static long find_messages(void) { return msgget(KEY, 0); }
static long find_tmp(void) { return access("/tmp/left", F_OK); }
static long find_shared_file(void) { return access("/dev/shm/left", F_OK); }
static long find_lock(void) { struct flock whole = { .l_type = F_WRLCK }; return fcntl(create("/work/out/locked"), F_SETLK, &whole); }
static long find_any_ipc(void) {
    for (int id = 0; id < 4096; id++) {
        struct shmid_ds memory;
        struct msqid_ds queue;
        if (!shmctl(id, 13, &memory) || !msgctl(id, 11, &queue)) return tell("id %d", id);
    }
    errno = EINVAL;
    return -1;
}
static long posix_queue(void) { return sys(SYS_mq_open, (long)"left", O_CREAT | O_RDWR, 0600, 0, 0); }
static long lock_input(void) { return sys(SYS_flock, open("/inputs/data", O_RDONLY), 2 | 4, 0, 0, 0); }
static long lease_input(void) { return fcntl(open("/inputs/data", O_RDONLY), F_SETLEASE, F_RDLCK); }
static long other_storage(void) {
    static const char *paths[] = { "/work/other", "/work/out/../other", "/proc/self/root/work/other", "/scratch", "/run", "/tmp/.tmp", "/home" };
    struct stat found;
    for (unsigned i = 0; i < sizeof paths / sizeof *paths; i++) if (!stat(paths[i], &found)) return tell("%s", paths[i]);
    errno = ENOENT;
    return -1;
}

const struct attack others[] = {
    A(kill_init), A(kill_all), A(kill_group_of_init), A(queue_to_init), A(pidfd_kill_init), A(signal_walk), A(signal_through_pipe),
    A(group_of_init), A(limit_init), A(nice_init), A(affinity_init), A(scheduler_init), A(ioprio_init), A(ptrace_init),
    A(ptrace_attach_init), A(traceme), A(ptrace_child), A(pidfd_steal), A(pidfd_steal_child), A(read_init), A(write_init),
    A(read_self), A(compare_init), A(advise_init), A(release_init), A(robust_of_init), A(init_environ), A(init_root), A(init_mem),
    A(init_maps), A(init_fd), A(init_exe), A(init_cwd), A(init_namespace), A(self_exe_write), A(proc_listing), A(proc_write_walk),
    A(root_write_walk), A(leave_objects), A(find_shm), A(find_semaphore), A(find_messages), A(find_tmp), A(find_shared_file),
    A(find_lock), A(find_any_ipc), A(posix_queue), A(lock_input), A(lease_input), A(other_storage), END,
};
