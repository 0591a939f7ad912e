/* Newer calls and older tricks: what came with Linux 6.6 to 7.3, descriptors of processes and namespaces that are got without
 * procfs, instructions, own filters, what can be learnt. Numbers stand here because the C library does not know them yet. */
#include "probe.h"
#include <linux/fs.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/shm.h>
#include <sys/un.h>
#include <time.h>

/* Calls of Linux 6.6 and newer. */
static long module_self(void) { char b[256]; uint32_t size = sizeof b; return sys(459, 100, (long)b, (long)&size, 0, 0); }
static long module_set(void) { uint64_t context[4] = { 100, 0, 32, 0 }; return sys(460, 100, (long)context, 32, 0, 0); }
static long module_list(void) { uint64_t ids[16]; uint32_t size = sizeof ids; return sys(461, (long)ids, (long)&size, 0, 0, 0); }
static long ask_file_attributes(void) { uint64_t a[4] = { 0 }; return sys(468, AT_FDCWD, (long)"/inputs/data", (long)a, 24, 0); }
static long home_node(void) { return sys(450, 0, 4096, 0, 0, 0); }
static long slice_yield(void) { return sys(471, 0, 0, 0, 0, 0); }
static long next_calls(void) {
    for (long nr = 471; nr < 512; nr++) if (sys(nr, 0, 0, 0, 0, 0) != -1 || errno != ENOSYS) tell_more("%ld:%s", nr, strerrorname_np(errno));
    errno = ENOSYS;
    return -1;
}
static long seal_memory(void) {
    char *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return sys(462, (long)page, 4096, 0, 0, 0) ? -1 : munmap(page, 4096);
}
static long shadow_stack(void) { return sys(453, 0, 4096, 1, 0, 0); }
static long foreign_mount_list(void) { uint64_t r[4] = { 32, ~0UL, 0, 1 }, ids[8]; return sys(458, (long)r, (long)ids, 8, 0, 0); }
static long foreign_mount_stat(void) { uint64_t r[4] = { 32, 1, 2, 1 }; char b[512]; return sys(457, (long)r, (long)b, sizeof b, 0, 0); }
static long file_systems(void) { return sys(SYS_sysfs, 3, 0, 0, 0, 0); }
static long device_usage(void) { char b[64]; return sys(SYS_ustat, 1, (long)b, 0, 0, 0); }

/* Landlock of its own: it could be told to log nothing. */
static int ruleset(void) { struct { uint64_t fs, net, scope; } attr = { 1 << 13, 0, 0 }; return sys(444, (long)&attr, sizeof attr, 0, 0, 0); }
static long landlock_make(void) { return ruleset(); }
static long landlock_rule(void) { struct { uint64_t access; int32_t parent; } rule = { 1, open("/", O_PATH) }; return sys(445, ruleset(), 1, (long)&rule, 0, 0); }
static long landlock_enter(void) { return sys(446, ruleset(), 0, 0, 0, 0); }
static long landlock_quiet(void) { return sys(446, -1, 7, 0, 0, 0); }

/* A process and its namespaces without procfs. Source: include/uapi/linux/pidfd.h. */
static int pidfd(int pid) { return sys(SYS_pidfd_open, pid, 0, 0, 0, 0); }
static long namespace_of(int pid, unsigned number) { return sys(SYS_ioctl, pidfd(pid), 0xff00 + number, 0, 0, 0); }
static long pidfd_namespaces_init(void) {
    for (unsigned number = 1; number <= 10; number++) if (namespace_of(1, number) >= 0) return tell("namespace %u", number);
    return -1;
}
static long pidfd_enter_own(void) {
    long network = namespace_of(getpid(), 4);
    return network < 0 ? tell("none") : setns(network, CLONE_NEWNET);
}
static long pidfd_owner(void) { return sys(SYS_ioctl, namespace_of(getpid(), 4), 0xb701, 0, 0, 0); }
static long pidfd_parent(void) { return sys(SYS_ioctl, namespace_of(getpid(), 5), 0xb702, 0, 0, 0); }
/* In whose numbers init is, and who its parent and its user are, as the kernel tells of any process that can be named. */
static long pidfd_about_init(void) {
    struct { uint64_t mask, cgroup; uint32_t pid, group, parent, user, rest[40]; } about = { .mask = 7 };
    unsigned long command = _IOC(_IOC_READ | _IOC_WRITE, 0xff, 11, 64);
    return sys(SYS_ioctl, pidfd(1), command, (long)&about, 0, 0) ? -1 : tell("%u %u %u", about.pid, about.parent, about.user);
}
static long pidfd_kill_group(void) { return sys(SYS_pidfd_send_signal, pidfd(1), SIGKILL, 0, 4, 0); }
static long pidfd_beyond(void) {
    for (int pid = 2; pid < 10000; pid++) if (pid != getpid() && pidfd(pid) >= 0) return tell("%d", pid);
    return -1;
}
static long timer_to_init(void) {
    struct sigevent event = { .sigev_notify = 4 /* SIGEV_THREAD_ID */, .sigev_signo = SIGKILL };
    event._sigev_un._tid = 1;
    timer_t timer;
    return sys(SYS_timer_create, CLOCK_MONOTONIC, (long)&event, (long)&timer, 0, 0);
}
static long clone_child(long flags) { return sys(SYS_clone, flags, 0, 0, 0, 0); }
/* A sibling that dies with a signal for init, and an orphan likewise. */
static long clone_for_init(void) {
    long child = clone_child(CLONE_PARENT | SIGKILL);
    if (!child) _exit(0);
    return child < 0 ? -1 : (usleep(20000), 0);
}
static long orphan_for_init(void) {
    long child = fork();
    if (!child) { if (!clone_child(SIGKILL)) { usleep(5000); _exit(0); } _exit(0); }
    return waitpid(child, NULL, 0) < 0 ? -1 : (usleep(20000), 0);
}
static long orphans(void) {
    for (int i = 0; i < 200; i++) {
        pid_t child = fork();
        if (child < 0) return -1;
        if (!child) { if (!fork()) _exit(0); _exit(0); }
        waitpid(child, NULL, 0);
    }
    return 0;
}
static long cookie_of_init(void) { return prctl(62, 2, 1, 0, 0); /* PR_SCHED_CORE, share to */ }
static long scheduler_program(void) {
    struct { uint32_t size, policy; uint64_t flags; int32_t nice; uint32_t priority; uint64_t runtime, deadline, period; } attr = { 48, 7, 0, 0, 0, 0, 0, 0 };
    return sys(SYS_sched_setattr, 0, (long)&attr, 0, 0, 0);
}
static long nice_of_others(void) { return setpriority(PRIO_USER, 65534, 19); }

/* Sockets of the only allowed kind, and what reaches the network through them. */
static long unix_ioctl(unsigned long command) {
    static char request[256] = "lo";
    return ioctl(socket(AF_UNIX, SOCK_DGRAM, 0), command, request);
}
static long socket_namespace(void) { return unix_ioctl(0x894c); /* SIOCGSKNS */ }
static long socket_file(void) { return unix_ioctl(0x89e0); /* SIOCUNIXFILE */ }
static long bridge(void) { return unix_ioctl(0x89a0); /* SIOCBRADDBR */ }
static long vlan(void) { return unix_ioctl(0x8983); /* SIOCSIFVLAN */ }
static long address(void) { return unix_ioctl(0x8924); /* SIOCSIFHWADDR */ }
static long rename_interface(void) { return unix_ioctl(0x8923); /* SIOCSIFNAME */ }
static long unix_option(int name, int value) { return setsockopt(socket(AF_UNIX, SOCK_DGRAM, 0), SOL_SOCKET, name, &value, sizeof value); }
static long busy_poll(void) { return unix_option(69, 1); /* SO_PREFER_BUSY_POLL */ }
static long high_priority(void) { return unix_option(SO_PRIORITY, 100); }
static long send_force(void) { return unix_option(SO_SNDBUFFORCE, 1 << 30); }
static long peer_of_pair(void) {
    int fds[2], peer = -1;
    socklen_t size = sizeof peer;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) || getsockopt(fds[0], SOL_SOCKET, 77 /* SO_PEERPIDFD */, &peer, &size)) return -1;
    return sys(SYS_pidfd_getfd, peer, 0, 0, 0, 0);
}
/* Descriptors sent to and never taken by oneself, until no more can be under way. */
static long in_flight(void) {
    for (int i = 0; i < 512; i++) {
        int fds[2], one = open("/dev/null", O_RDONLY);
        union { char bytes[CMSG_SPACE(sizeof one)]; struct cmsghdr align; } control = { { 0 } };
        struct iovec part = { "x", 1 };
        struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET, head->cmsg_type = SCM_RIGHTS, head->cmsg_len = CMSG_LEN(sizeof one);
        if (socketpair(AF_UNIX, SOCK_DGRAM, 0, fds)) return -1;
        /* The socket itself goes along: nobody but the kernel's own collector ever closes it. */
        for (int times = 0; times < 100; times++) {
            memcpy(CMSG_DATA(head), times ? &one : &fds[1], sizeof one);
            if (sendmsg(fds[0], &message, MSG_DONTWAIT) < 0) { if (errno == EAGAIN) break; return -1; }
        }
        close(fds[0]), close(fds[1]), close(one);
    }
    return 0;
}

/* procfs of oneself: the links and numbers that could lead further. */
static long mapped_link(int flags) {
    unsigned long first, last;
    char path[128];
    FILE *maps = fopen("/proc/self/maps", "r");
    if (!maps || fscanf(maps, "%lx-%lx", &first, &last) != 2) return -1;
    snprintf(path, sizeof path, "/proc/self/map_files/%lx-%lx", first, last);
    return open(path, flags);
}
static long mapped_file(void) { return mapped_link(O_RDONLY); }
static long mapped_write(void) { return mapped_link(O_RDWR); }
static long kernel_stack(void) { char b[256]; int fd = open("/proc/self/stack", O_RDONLY); return fd < 0 ? -1 : read(fd, b, sizeof b); }
static long page_frame(void) {
    static char page[4096] = { 1 };
    uint64_t entry = 0;
    int fd = open("/proc/self/pagemap", O_RDONLY);
    if (fd < 0) return -1;
    if (pread(fd, &entry, 8, (uintptr_t)page / 4096 * 8) != 8) return -1;
    return tell(entry & ((1UL << 55) - 1) ? "known" : "hidden");
}
static long own_cgroup(void) {
    char line[512];
    FILE *file = fopen("/proc/self/cgroup", "r");
    if (!file) return -1;
    while (fgets(line, sizeof line, file)) if (strcmp(strrchr(line, ':'), ":/\n")) return tell("%.*s", (int)strcspn(line, "\n"), line);
    return tell("the root");
}
static long own_network(void) {
    char line[512];
    FILE *file = fopen("/proc/self/net/dev", "r");
    for (int number = 0; file && fgets(line, sizeof line, file); number++) {
        char name[64];
        if (number >= 2 && sscanf(line, " %63[^:]", name) == 1) tell_more("%s", name);
    }
    return file ? 0 : -1;
}
static long own_numbers(void) {
    char line[512];
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file)) if (!strncmp(line, "NSpid:", 6)) return tell(strchr(strchr(line, '\t') + 1, '\t') ? "of several namespaces" : "its own");
    return -1;
}
static long fs_user(void) { sys(SYS_setfsuid, 0, 0, 0, 0, 0); return tell("%ld %ld", sys(SYS_setfsuid, -1, 0, 0, 0, 0), sys(SYS_setfsgid, -1, 0, 0, 0, 0)); }

/* An input once more. */
static int input(void) { return open("/inputs/data", O_RDONLY); }
static long copy_over_input(void) { int from = open("/work/out/mine", O_CREAT | O_RDWR, 0600); return write(from, "evil", 4) == 4 ? copy_file_range(from, &(loff_t){ 0 }, input(), NULL, 4, 0) : -1; }
static long send_over_input(void) { int from = open("/work/out/mine", O_CREAT | O_RDWR, 0600); return write(from, "evil", 4) == 4 ? sendfile(input(), from, &(off_t){ 0 }, 4) : -1; }
static long dedupe_over_input(void) {
    struct { uint64_t offset, length; uint16_t count, r1; uint32_t r2; int64_t fd; uint64_t at, bytes; int32_t status; uint32_t r3; } same = { 0, 6, 1, 0, 0, input(), 0, 0, 0, 0 };
    int from = open("/work/out/mine", O_CREAT | O_RDWR, 0600);
    if (write(from, "input\n", 6) != 6 || ioctl(from, 0xc0189436, &same)) return -1;
    errno = -same.status;
    return same.status ? -1 : 0;
}
static long verity_of_input(void) { char arg[128] = { 1, 0, 0, 0, 1 }; return ioctl(input(), 0x40806685, arg); }
static long generation_of_input(void) { int number = 7; return ioctl(input(), 0x40087602, &number); }
/* With a word that is none: what may shut the disk down is told so, and nothing happens. */
static long shut_disk(void) { uint32_t flags = 99; return ioctl(create("/work/out/file"), 0x8004587d, &flags); }
static long resize_disk(void) { uint64_t blocks = 0; return ioctl(create("/work/out/file"), 0x40086610, &blocks); }
static long label_disk(void) { char label[256] = "evil"; return ioctl(create("/work/out/file"), 0x41009432, label); }
static long encryption_key(void) { char key[128] = { 0 }; return ioctl(create("/work/out/file"), 0xc0506617, key); }
/* What is in the page cache of a file that it may read, and when others use a file of the image: known to whoever shares it. */
static long cached_input(void) { uint64_t range[2] = { 0, 4096 }, got[5]; return sys(451, input(), (long)range, (long)got, 0, 0); }
static long watch_image(void) { int fd = inotify_init1(IN_CLOEXEC); return fd < 0 ? -1 : inotify_add_watch(fd, "/usr/bin/tool", IN_ACCESS | IN_OPEN); }
static long climb_by_descriptor(void) {
    struct stat top, root;
    int fd = open("/", O_PATH | O_DIRECTORY), up = openat(fd, "../../..", O_PATH | O_DIRECTORY);
    if (up < 0 || fstat(up, &top) || stat("/", &root)) return -1;
    return tell(top.st_ino == root.st_ino && top.st_dev == root.st_dev ? "the same" : "another");
}

/* Limits that only a capability passes. */
static long pipe_size(void) { int fds[2]; return pipe(fds) ? -1 : fcntl(fds[0], F_SETPIPE_SZ, 64 << 20); }
static long wake_timer(void) { return sys(SYS_timerfd_create, 8, 0, 0, 0, 0); }
static long huge_shared(void) { return shmget(IPC_PRIVATE, 2 << 20, IPC_CREAT | 04000 | 0600); }
static long huge_file(void) { int fd = memfd_create("m", 4 | 8); return fd < 0 || ftruncate(fd, 2 << 20) ? -1 : mmap(NULL, 2 << 20, PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED ? -1 : 0; }
static long lock_shared(void) { return shmctl(shmget(IPC_PRIVATE, 1 << 20, IPC_CREAT | 0600), 11, NULL); }
static long advise(int advice) { return madvise(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0), 4096, advice); }
static long poison_memory(void) { return advise(100); }
static long offline_memory(void) { return advise(101); }
static long merge_memory(void) { return advise(12); }
static long merge_all(void) { return prctl(67, 1, 0, 0, 0); /* PR_SET_MEMORY_MERGE */ }
static long kernel_segment(void) { return sys(SYS_arch_prctl, 0x1002, (long)0xffff888000000000, 0, 0, 0); }
static long read_kernel(void) { int fds[2]; return pipe(fds) ? -1 : write(fds[1], (void *)0xffffffff81000000, 8); }
static long compat_vdso(void) { return sys(SYS_arch_prctl, 0x2002, 0, 0, 0, 0); }

/* Asking whether a program would run is not running it, and the answer is the same. */
static long check_execution(const char *path) { char *argv[] = { "x", NULL }; return syscall(SYS_execveat, AT_FDCWD, path, argv, environ, 0x10000); }
static long check_shm(void) { int fd = open("/dev/shm/p", O_CREAT | O_WRONLY, 0755); close(fd); return check_execution("/dev/shm/p"); }
static long check_probe(void) { return check_execution("/probe"); }

/* A filter of its own is asked as well, and the stricter answer wins: it can only take from itself. */
struct code { uint16_t code; uint8_t jt, jf; uint32_t k; };
struct program { uint16_t length; const struct code *code; };
static long own_filter(uint32_t answer) {
    const struct code code[] = { { 0x20, 0, 0, 0 }, { 0x15, 0, 1, SYS_unshare }, { 6, 0, 0, answer }, { 6, 0, 0, 0x7fff0000 } };
    const struct program program = { 4, code };
    if (prctl(PR_SET_SECCOMP, 2, &program, 0, 0)) return -1;
    return sys(SYS_unshare, CLONE_NEWUSER, 0, 0, 0, 0);
}
static long filter_traces(void) { return own_filter(0x7ff00000); }
static long filter_logs(void) { return own_filter(0x7ffc0000); }
static long filter_notifies(void) { return own_filter(0x7fc00000); }
static long filter_refuses(void) { return own_filter(0x00050000 | EDOM); }
static long filters_many(void) {
    static struct code long_program[4096];
    for (int i = 0; i < 4096; i++) long_program[i] = (struct code){ 6, 0, 0, 0x7fff0000 };
    const struct program program = { 4096, long_program };
    for (int i = 0; i < 4096; i++) if (prctl(PR_SET_SECCOMP, 2, &program, 0, 0)) return -1;
    return 0;
}

/* Instructions that only the kernel has: each kills who tries. */
static void halt(void) { __asm__ volatile("hlt"); }
static void interrupts_off(void) { __asm__ volatile("cli"); }
static void interrupts_on(void) { __asm__ volatile("sti"); }
static void port_in(void) { __asm__ volatile("mov $0x70, %%dx; in %%dx, %%al" ::: "rax", "rdx"); }
static void port_out(void) { __asm__ volatile("mov $0x80, %%dx; out %%al, %%dx" ::: "rdx"); }
static void read_register(void) { __asm__ volatile("rdmsr" ::"c"(0x10) : "rax", "rdx"); }
static void write_register(void) { __asm__ volatile("wrmsr" ::"c"(0x10), "a"(0), "d"(0)); }
static void control_register(void) { __asm__ volatile("mov %%cr0, %%rax" ::: "rax"); }
static void debug_register(void) { __asm__ volatile("mov %%rax, %%dr7" ::"a"(0)); }
static void caches(void) { __asm__ volatile("wbinvd"); }
static void translation(void) { __asm__ volatile("invlpg (%0)" ::"r"(0)); }
static void descriptors_of_machine(void) { static char table[10]; __asm__ volatile("lgdt %0" ::"m"(table)); }
static void task_of_machine(void) { __asm__ volatile("ltr %w0" ::"r"(0)); }
static long instructions(void) {
    static const struct { const char *name; void (*run)(void); } all[] = {
        { "hlt", halt }, { "cli", interrupts_off }, { "sti", interrupts_on }, { "in", port_in }, { "out", port_out }, { "rdmsr", read_register },
        { "wrmsr", write_register }, { "cr0", control_register }, { "dr7", debug_register }, { "wbinvd", caches }, { "invlpg", translation },
        { "lgdt", descriptors_of_machine }, { "ltr", task_of_machine },
    };
    fflush(stdout);
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++) {
        pid_t child = fork();
        if (!child) { all[i].run(); _exit(0); }
        int status = 0;
        if (child < 0 || waitpid(child, &status, 0) != child) return -1;
        if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGSEGV) tell_more("%s:%x", all[i].name, status);
    }
    errno = EFAULT;
    return -1;
}

/* What is left to the collector: a directory that its owner cannot enter, times that are none, a link as long as can be. */
static long out_locked(void) { return mkdir("/work/out/artifact", 0700) || put("/work/out/artifact/in", "x", 1, 0) ? -1 : chmod("/work/out/artifact", 0); }
static long out_times(void) {
    const struct timespec times[2] = { { -(1L << 33), 0 }, { 1L << 33, 999999999 } };
    return put("/work/out/artifact", "made inside\n", 12, 0600) ? -1 : utimensat(AT_FDCWD, "/work/out/artifact", times, 0);
}
static long out_long_link(void) {
    char target[4096];
    memset(target, '/', sizeof target), target[4095] = 0;
    return symlink(target, "/work/out/artifact");
}
static long out_itself(void) { return symlink("/proc/self/fd/1", "/work/out/artifact"); }

const struct attack newer[] = {
    A(module_self), A(module_set), A(module_list), A(ask_file_attributes), A(home_node), A(slice_yield), A(next_calls), A(seal_memory),
    A(shadow_stack), A(foreign_mount_list), A(foreign_mount_stat), A(file_systems), A(device_usage), A(landlock_make),
    A(landlock_rule), A(landlock_enter), A(landlock_quiet), A(pidfd_namespaces_init), A(pidfd_enter_own), A(pidfd_owner),
    A(pidfd_parent), A(pidfd_about_init), A(pidfd_kill_group), A(pidfd_beyond), A(timer_to_init), A(clone_for_init),
    A(orphan_for_init), A(orphans), A(cookie_of_init), A(scheduler_program), A(nice_of_others), A(socket_namespace), A(socket_file),
    A(bridge), A(vlan), A(address), A(rename_interface), A(busy_poll), A(high_priority), A(send_force), A(peer_of_pair), A(in_flight),
    A(mapped_file), A(mapped_write), A(kernel_stack), A(page_frame), A(own_cgroup), A(own_network), A(own_numbers), A(fs_user),
    A(copy_over_input), A(send_over_input), A(dedupe_over_input), A(verity_of_input), A(generation_of_input), A(shut_disk),
    A(resize_disk), A(label_disk), A(encryption_key), A(cached_input), A(watch_image), A(climb_by_descriptor), A(pipe_size),
    A(wake_timer), A(huge_shared), A(huge_file), A(lock_shared), A(poison_memory), A(offline_memory), A(merge_memory), A(merge_all),
    A(kernel_segment), A(read_kernel), A(compat_vdso), A(check_shm), A(check_probe), A(filter_traces), A(filter_logs),
    A(filter_notifies), A(filter_refuses), A(filters_many), A(instructions), A(out_locked), A(out_times), A(out_long_link),
    A(out_itself), END,
};
