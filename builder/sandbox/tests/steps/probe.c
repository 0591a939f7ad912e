/*
 * The hostile step: one static multi-call program, one attack for each name, run alone in a fresh sandbox.
 *
 * `probe NAME...` prints one line for each name: the name, then OK if the attack succeeded, or the name of the error.
 * Some names do not return (they are killed, spin, or leave a process behind). No dependency but the C library.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <netinet/in.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static void say(const char *name, long result) {
    if (result >= 0) printf("%s OK\n", name);
    else printf("%s %s\n", name, strerrorname_np(errno));
    fflush(stdout);
}

static long sys(long nr, long a, long b, long c, long d, long e) { return syscall(nr, a, b, c, d, e); }

/* --- sockets --- */
static int sock(int domain, int type, int protocol) { return socket(domain, type, protocol); }
static int inet(void) { return sock(AF_INET, SOCK_STREAM, 0); }
static int inet6(void) { return sock(AF_INET6, SOCK_DGRAM, 0); }
static int raw(void) { return sock(AF_INET, SOCK_RAW, 1); }
static int packet(void) { return sock(AF_PACKET, SOCK_RAW, 0); }
static int netlink(void) { return sock(AF_NETLINK, SOCK_RAW, 0); }
static int vsock(void) { return sock(AF_VSOCK, SOCK_STREAM, 0); }
static int alg(void) { return sock(AF_ALG, SOCK_SEQPACKET, 0); }
static int xdp(void) { return sock(44, SOCK_RAW, 0); }
static int high_domain(void) { return sys(SYS_socket, AF_INET | (1L << 32), SOCK_STREAM, 0, 0, 0); }
static int multipath(void) { return sock(AF_INET, SOCK_STREAM, 262); }
static int unix_pair(void) { int fds[2]; return socketpair(AF_UNIX, SOCK_STREAM, 0, fds); }
static int unix_at(const char *path) {
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    strcpy(at.sun_path, path);
    return bind(sock(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&at, sizeof at);
}
static int unix_in_work(void) { return unix_at("/work/out/socket"); }
static int unix_in_tmp(void) { return unix_at("/tmp/socket"); }
static int loopback(void) {
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof at;
    int server = inet(), client = inet();
    if (server < 0 || bind(server, (void *)&at, size) || listen(server, 1)) return -1;
    if (getsockname(server, (void *)&at, &size)) return -1;
    return connect(client, (void *)&at, size);
}
static int beyond_loopback(void) {
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(53), .sin_addr.s_addr = htonl(0x08080808) };
    return connect(inet(), (void *)&at, sizeof at);
}

/* --- kernel --- */
static int do_bpf(void) {
    union bpf_attr attr = { .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1 };
    return sys(SYS_bpf, BPF_MAP_CREATE, (long)&attr, sizeof attr, 0, 0);
}
static int do_perf(void) { char attr[128] = { 0 }; return sys(SYS_perf_event_open, (long)attr, 0, -1, -1, 0); }
static int do_userfaultfd(void) { return sys(SYS_userfaultfd, 0, 0, 0, 0, 0); }
static int do_keyctl(void) { return sys(SYS_keyctl, 0, -3, 1, 0, 0); }
static int do_add_key(void) { return sys(SYS_add_key, (long)"user", (long)"k", (long)"v", 1, -3); }
static int do_io_uring(void) { char params[120] = { 0 }; return sys(SYS_io_uring_setup, 8, (long)params, 0, 0, 0); }
static int do_reboot(void) { return sys(SYS_reboot, 0xfee1dead, 672274793, 0, 0, 0); }
static int do_kexec(void) { return sys(SYS_kexec_load, 0, 0, 0, 0, 0); }
static int do_module(void) { return sys(SYS_init_module, (long)"", 0, (long)"", 0, 0); }
static int do_clock(void) { struct timespec t = { 1, 0 }; return clock_settime(CLOCK_REALTIME, &t); }
static int do_hostname(void) { return sethostname("evil", 4); }
static int do_personality(void) { return sys(SYS_personality, 0x0400000, 0, 0, 0, 0); }
static int do_iopl(void) { return sys(SYS_iopl, 3, 0, 0, 0, 0); }
static int do_syslog(void) { return sys(SYS_syslog, 10, 0, 0, 0, 0); }
static int do_handle(void) { return sys(SYS_open_by_handle_at, AT_FDCWD, (long)"", 0, 0, 0); }
static int listener(void) {
    struct { uint16_t code; uint8_t jt, jf; uint32_t k; } allow = { 6, 0, 0, 0x7fff0000 };
    struct { uint16_t length; void *program; } program = { 1, &allow };
    return sys(SYS_seccomp, 1, SECCOMP_FILTER_FLAG_NEW_LISTENER, (long)&program, 0, 0);
}
static int unknown_call(void) { return sys(9999, 0, 0, 0, 0, 0); }
static int i386_call(void) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory"); /* getpid */
    if (result < 0) { errno = -result; return -1; }
    return 0;
}
static int x32_call(void) { return sys(0x40000000 + SYS_getpid, 0, 0, 0, 0, 0); }
static int memfd_exec(void) {
    int fd = memfd_create("m", 0), self = open("/proc/self/exe", O_RDONLY);
    char block[65536];
    ssize_t got;
    while ((got = read(self, block, sizeof block)) > 0) if (write(fd, block, got) != got) return -1;
    char *argv[] = { "probe", "nothing", NULL };
    pid_t child = fork();
    if (!child) { fexecve(fd, argv, environ); _exit(errno); }
    int status = 0;
    waitpid(child, &status, 0);
    errno = WEXITSTATUS(status);
    return errno ? -1 : 0;
}

/* --- namespaces and the view --- */
static int new_ns(int flag) { return unshare(flag); }
static int unshare_user(void) { return new_ns(CLONE_NEWUSER); }
static int unshare_net(void) { return new_ns(CLONE_NEWNET); }
static int clone_user(void) {
    long child = sys(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
    if (child == 0) _exit(0);
    return child;
}
static int do_clone3(void) {
    struct { uint64_t field[11]; } args = { { [4] = SIGCHLD } };
    long child = sys(SYS_clone3, (long)&args, sizeof args, 0, 0, 0);
    if (child == 0) _exit(0);
    return child;
}
static int do_setns(void) { int fd = open("/proc/self/ns/net", O_RDONLY); return fd < 0 ? -1 : setns(fd, 0); }
static int do_mount(void) { return mount("none", "/tmp", "tmpfs", 0, NULL); }
static int remount(void) { return mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND, NULL); }
static int do_umount(void) { return umount2("/proc", MNT_DETACH); }
static int do_fsopen(void) { return sys(SYS_fsopen, (long)"tmpfs", 0, 0, 0, 0); }
static int do_open_tree(void) { return sys(SYS_open_tree, AT_FDCWD, (long)"/", 1, 0, 0); }
static int do_mount_setattr(void) { uint64_t a[4] = { 0, 1 }; return sys(SYS_mount_setattr, AT_FDCWD, (long)"/", 0, (long)a, sizeof a); }
static int do_pivot(void) { return sys(SYS_pivot_root, (long)".", (long)".", 0, 0, 0); }
static int do_chroot(void) { return chroot("/tmp"); }
static int create(const char *path) { return open(path, O_CREAT | O_WRONLY, 0600); }
static int write_root(void) { return create("/evil"); }
static int write_input(void) { return open("/inputs/data", O_WRONLY); }
static int truncate_input(void) { return truncate("/inputs/data", 0); }
static int chmod_input(void) { return chmod("/inputs/data", 0777); }
static int unlink_input(void) { return unlink("/inputs/data"); }
static int link_input(void) { return link("/inputs/data", "/work/out/linked"); }
static int write_work(void) { return create("/work/out/file"); }
static int write_scaffold(void) { return create("/work/evil"); }
static int write_dev(void) { return create("/dev/evil"); }
static int write_proc(void) { return open("/proc/self/oom_score_adj", O_WRONLY); }
static int host_file(void) { return open("/etc/passwd", O_RDONLY); }
static int core_pattern(void) { return open("/proc/sys/kernel/core_pattern", O_RDONLY); }
static int proc_cmdline(void) { return open("/proc/cmdline", O_RDONLY); }
static int sysfs(void) { return open("/sys/kernel", O_RDONLY); }
static int init_environ(void) { return open("/proc/1/environ", O_RDONLY); }
static int init_root(void) { return open("/proc/1/root", O_RDONLY); }
static int dev_kvm(void) { return open("/dev/kvm", O_RDWR); }
static int dev_tpm(void) { return open("/dev/tpmrm0", O_RDWR); }
static int dev_mapper(void) { return open("/dev/mapper/control", O_RDWR); }
static int dev_null(void) { return open("/dev/null", O_RDWR); }
static int random_byte(void) { char byte; return read(open("/dev/urandom", O_RDONLY), &byte, 1) == 1 ? 0 : -1; }
static int mknod_device(void) { return mknod("/work/out/null", S_IFCHR | 0666, makedev(1, 3)); }
static int mknod_mem(void) { return mknod("/tmp/mem", S_IFCHR | 0666, makedev(1, 1)); }
static int fifo_in_work(void) { return mkfifo("/work/out/fifo", 0600); }
static int fifo_in_tmp(void) { return mkfifo("/tmp/fifo", 0600); }
static int set_id(void) { int fd = create("/work/out/setid"); return fchmod(fd, 04755); }
static int set_id_at_open(void) { return open("/work/out/setid2", O_CREAT | O_WRONLY, 04755); }
static int set_attribute(void) { create("/tmp/a"); return setxattr("/tmp/a", "user.k", "v", 1, 0); }
static int dir_in_shm(void) { return mkdir("/dev/shm/dir", 0700); }
static int file_in_shm(void) { return create("/dev/shm/file"); }

/* --- others --- */
static int ptrace_init(void) { return ptrace(PTRACE_SEIZE, 1, 0, 0); }
static int traceme(void) { return ptrace(PTRACE_TRACEME, 0, 0, 0); }
static int kill_init(void) { return kill(1, SIGKILL); }
static int pidfd_steal(void) { int fd = sys(SYS_pidfd_open, 1, 0, 0, 0, 0); return fd < 0 ? -1 : sys(SYS_pidfd_getfd, fd, 0, 0, 0, 0); }
static int read_init(void) { char b; struct { void *p; size_t l; } v = { &b, 1 }; return sys(SYS_process_vm_readv, 1, (long)&v, 1, (long)&v, 1); }
static int become_root(void) { return setuid(0); }
static int raise_files(void) { long limit[2] = { 1 << 20, 1 << 20 }; return sys(SYS_prlimit64, 0, 7, (long)limit, 0, 0); }
static int terminal(void) { char c = 'x'; return ioctl(0, 0x5412, &c); }
static int terminal_high(void) { char c = 'x'; return sys(SYS_ioctl, 0, 0x5412 | (1L << 32), (long)&c, 0, 0); }
static int descriptors(void) {
    int count = 0, self;
    DIR *directory = opendir("/proc/self/fd");
    if (!directory) return -1;
    self = dirfd(directory);
    for (struct dirent *entry; (entry = readdir(directory));)
        if (entry->d_name[0] != '.' && atoi(entry->d_name) > 2 && atoi(entry->d_name) != self) count++;
    errno = EBADF;
    return count ? 0 : -1;
}

/* --- what is left behind and what is used up --- */
static int daemon_left(void) {
    if (fork()) return 0;
    setsid();
    if (fork()) _exit(0);
    for (;;) { int fd = open("/work/out/late", O_CREAT | O_WRONLY | O_APPEND, 0600); if (write(fd, "x", 1) != 1) _exit(1); close(fd); usleep(1000); }
}
static int spin(void) { signal(SIGTERM, SIG_IGN); for (;;) sched_yield(); return 0; }
static int self_kill(void) { raise(SIGSEGV); return 0; }
static int memory(void) { for (;;) { char *p = malloc(1 << 20); if (!p) return -1; memset(p, 1, 1 << 20); } }
static int memory_in_tmp(void) {
    static char block[1 << 20];
    int fd = create("/tmp/big");
    while (write(fd, block, sizeof block) > 0);
    return -1;
}
static int forks(void) {
    for (int i = 0; i < 100000; i++) { pid_t child = fork(); if (child < 0) return -1; if (!child) { pause(); _exit(0); } }
    return 0;
}
static int big_file(void) { signal(SIGXFSZ, SIG_IGN); return ftruncate(create("/work/out/big"), 8LL << 40); }
static int escape_links(void) {
    return symlink("/etc/passwd", "/work/out/link") | symlink("../../../etc", "/work/out/dir");
}
static int fill_tmp(void) { return memory_in_tmp(); }
static int deep(void) {
    if (chdir("/work/out")) return -1;
    for (int i = 0; i < 2000; i++) if (mkdir("d", 0700) || chdir("d")) return -1;
    return 0;
}
static int outputs(void) {
    int fd = create("/work/out/artifact");
    return write(fd, "made inside\n", 12) == 12 ? 0 : -1;
}

static const struct { const char *name; int (*attack)(void); } attacks[] = {
#define A(name) { #name, name }
    A(inet), A(inet6), A(raw), A(packet), A(netlink), A(vsock), A(alg), A(xdp), A(high_domain), A(multipath), A(unix_pair),
    A(unix_in_work), A(unix_in_tmp), A(loopback), A(beyond_loopback), A(do_bpf), A(do_perf), A(do_userfaultfd), A(do_keyctl),
    A(do_add_key), A(do_io_uring), A(do_reboot), A(do_kexec), A(do_module), A(do_clock), A(do_hostname), A(do_personality),
    A(do_iopl), A(do_syslog), A(do_handle), A(listener), A(unknown_call), A(i386_call), A(x32_call), A(memfd_exec),
    A(unshare_user), A(unshare_net), A(clone_user), A(do_clone3), A(do_setns), A(do_mount), A(remount), A(do_umount),
    A(do_fsopen), A(do_open_tree), A(do_mount_setattr), A(do_pivot), A(do_chroot), A(write_root), A(write_input),
    A(truncate_input), A(chmod_input), A(unlink_input), A(link_input), A(write_work), A(write_scaffold), A(write_dev),
    A(write_proc), A(host_file), A(core_pattern), A(proc_cmdline), A(sysfs), A(init_environ), A(init_root), A(dev_kvm),
    A(dev_tpm), A(dev_mapper), A(dev_null), A(random_byte), A(mknod_device), A(mknod_mem), A(fifo_in_work), A(fifo_in_tmp),
    A(set_id), A(set_id_at_open), A(set_attribute), A(dir_in_shm), A(file_in_shm), A(ptrace_init), A(traceme), A(kill_init),
    A(pidfd_steal), A(read_init), A(become_root), A(raise_files), A(terminal), A(terminal_high), A(descriptors),
    A(daemon_left), A(spin), A(self_kill), A(memory), A(memory_in_tmp), A(forks), A(big_file), A(escape_links), A(fill_tmp),
    A(deep), A(outputs),
};

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

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "facts")) { facts(argc, argv); return 0; }
    if (argc > 2 && !strcmp(argv[1], "exit")) return atoi(argv[2]);
    if (argc > 1 && !strcmp(argv[1], "nothing")) return 0;
    for (int i = 1; i < argc; i++) {
        unsigned found = 0;
        for (unsigned a = 0; a < sizeof attacks / sizeof *attacks; a++)
            if (!strcmp(attacks[a].name, argv[i])) { errno = 0; say(argv[i], attacks[a].attack()); found = 1; }
        if (!found) { printf("%s UNKNOWN\n", argv[i]); return 99; }
    }
    return 0;
}
