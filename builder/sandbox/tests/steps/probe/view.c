/* The view: changing mounts, leaving the root, finding devices and the kernel's files. */
#include "probe.h"
#include <dirent.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>

static long mount_tmpfs(void) { return mount("none", "/tmp", "tmpfs", 0, NULL); }
static long mount_proc(void) { return mount("proc", "/tmp", "proc", 0, NULL); }
static long mount_sysfs(void) { return mount("sysfs", "/tmp", "sysfs", 0, NULL); }
static long mount_cgroup(void) { return mount("none", "/tmp", "cgroup2", 0, NULL); }
static long mount_bind(void) { return mount("/work/out", "/inputs/tree", NULL, MS_BIND | MS_REC, NULL); }
static long mount_move(void) { return mount("/work/out", "/tmp", NULL, MS_MOVE, NULL); }
static long mount_shared(void) { return mount(NULL, "/", NULL, MS_SHARED | MS_REC, NULL); }
static long remount(void) { return mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND, NULL); }
static long remount_input(void) { return mount(NULL, "/inputs/data", NULL, MS_REMOUNT | MS_BIND, NULL); }
static long umount_proc(void) { return umount2("/proc", MNT_DETACH); }
static long umount_root(void) { return umount2("/", MNT_DETACH); }
static long umount_input(void) { return umount2("/inputs/data", 0); }
static long fs_open(void) { return sys(SYS_fsopen, (long)"tmpfs", 0, 0, 0, 0); }
static long fs_config(void) { return sys(SYS_fsconfig, 3, 6, 0, 0, 0); }
static long fs_mount(void) { return sys(SYS_fsmount, 3, 0, 0, 0, 0); }
static long fs_pick(void) { return sys(SYS_fspick, AT_FDCWD, (long)"/", 0, 0, 0); }
static long tree_open(void) { return sys(SYS_open_tree, AT_FDCWD, (long)"/", 1, 0, 0); }
static long tree_open_attributes(void) { uint64_t a[4] = { 0, 1 }; return sys(467, AT_FDCWD, (long)"/", 1, (long)a, sizeof a); }
static long mount_moved(void) { return sys(SYS_move_mount, AT_FDCWD, (long)"/work/out", AT_FDCWD, (long)"/tmp", 0); }
static long mount_attributes(void) { uint64_t a[4] = { 0, 1 }; return sys(SYS_mount_setattr, AT_FDCWD, (long)"/", 0, (long)a, sizeof a); }
static long mount_stat(void) { uint64_t r[4] = { 32, 1, 2 }; char b[512]; return sys(457, (long)r, (long)b, sizeof b, 0, 0); }
static long mount_list(void) { uint64_t r[4] = { 32, ~0UL }, ids[8]; return sys(458, (long)r, (long)ids, 8, 0, 0); }
static long pivot(void) { return sys(SYS_pivot_root, (long)".", (long)".", 0, 0, 0); }
static long change_root(void) { return chroot("/tmp"); }
static long open_more(void) { uint64_t how[3] = { O_CREAT | O_WRONLY, 04755, 0 }; return sys(SYS_openat2, AT_FDCWD, (long)"/tmp/x", (long)how, sizeof how, 0); }

static long looks(const char *path) { int fd = open(path, O_RDONLY | O_NONBLOCK); return fd; }
static long host_file(void) { return looks("/etc/passwd"); }
static long host_secret(void) { return looks("/etc/shadow"); }
static long host_home(void) { return looks("/root"); }
static long boot(void) { return looks("/boot"); }
static long sysfs(void) { return looks("/sys/kernel"); }
static long cgroups(void) { return looks("/sys/fs/cgroup/cgroup.procs"); }
static long security(void) { return looks("/sys/kernel/security/lockdown"); }
static long evidence(void) { return looks("/run/evidence"); }
static long absent(const char *const *paths) {
    struct stat found;
    for (; *paths; paths++) if (!lstat(*paths, &found)) return tell("%s", *paths);
    errno = ENOENT;
    return -1;
}
static long devices(void) {
    static const char *const paths[] = {
        "/dev/tpmrm0", "/dev/tpm0", "/dev/mem", "/dev/kmem", "/dev/port", "/dev/kvm", "/dev/vsock", "/dev/vhost-vsock", "/dev/fuse",
        "/dev/net/tun", "/dev/loop0", "/dev/loop-control", "/dev/mapper/control", "/dev/dm-0", "/dev/sda", "/dev/vda", "/dev/nvme0n1",
        "/dev/kmsg", "/dev/console", "/dev/ptmx", "/dev/pts", "/dev/tty", "/dev/tty0", "/dev/ttyS0", "/dev/hpet", "/dev/rtc0",
        "/dev/userfaultfd", "/dev/uinput", "/dev/input", "/dev/dri", "/dev/snd", "/dev/mqueue", "/dev/hugepages", "/dev/nvram",
        "/dev/cpu/0/msr", "/dev/watchdog", "/dev/sev-guest", "/dev/tdx_guest", "/dev/hwrng", "/dev/vport0p1", "/dev/ram0", "/dev/btrfs-control",
        "/dev/iommu", "/dev/vfio/vfio", "/dev/udmabuf", "/dev/dma_heap", "/dev/ntsync", NULL };
    return absent(paths);
}
/* Exactly what /dev holds, by name and kind. */
static long device_listing(void) {
    struct dirent **names;
    int count = scandir("/dev", &names, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        struct stat found;
        char path[300];
        if (names[i]->d_name[0] == '.') continue;
        sprintf(path, "/dev/%s", names[i]->d_name);
        if (lstat(path, &found)) return -1;
        if (S_ISCHR(found.st_mode)) tell_more("%s=%d:%d", names[i]->d_name, major(found.st_rdev), minor(found.st_rdev));
        else tell_more("%s", names[i]->d_name);
    }
    return 0;
}
static long proc_files(void) {
    static const char *const paths[] = {
        "/proc/sys", "/proc/sysrq-trigger", "/proc/kallsyms", "/proc/kcore", "/proc/keys", "/proc/key-users", "/proc/timer_list",
        "/proc/interrupts", "/proc/cmdline", "/proc/modules", "/proc/config.gz", "/proc/kmsg", "/proc/iomem", "/proc/ioports", "/proc/sched_debug",
        "/proc/mtrr", "/proc/acpi", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/driver", "/proc/scsi", "/proc/tty", "/proc/sysvipc",
        "/proc/locks", "/proc/partitions", "/proc/diskstats", "/proc/slabinfo", "/proc/vmallocinfo", "/proc/kpageflags", "/proc/consoles",
        "/proc/cgroups", "/proc/pressure", "/proc/dynamic_debug", "/proc/latency_stats", "/proc/net", "/proc/mounts", NULL };
    return absent(paths);
}
static long core_pattern(void) { return open("/proc/sys/kernel/core_pattern", O_WRONLY); }
static long magic_root(void) { return looks("/proc/self/root/etc/passwd"); }
static long magic_root_up(void) { return looks("/proc/self/root/../../../etc/shadow"); }
static long magic_cwd(void) { return looks("/proc/self/cwd/../../../../../root"); }
static long magic_task(void) { char path[64]; sprintf(path, "/proc/self/task/%d/root/etc/shadow", getpid()); return looks(path); }
static long linked_out(void) { symlink("/proc/self/root/../etc/shadow", "/work/out/up"); return looks("/work/out/up"); }
static long climb(void) {
    struct stat top, root;
    char cwd[256];
    for (int i = 0; i < 64; i++) if (chdir("..")) return -1;
    if (stat(".", &top) || stat("/", &root)) return -1;
    return tell("%s %s", getcwd(cwd, sizeof cwd), top.st_ino == root.st_ino && top.st_dev == root.st_dev ? "the same" : "another");
}
static long climb_deleted(void) {
    char cwd[256];
    if (mkdir("/work/out/gone", 0700) || chdir("/work/out/gone") || rmdir("/work/out/gone")) return -1;
    int up = openat(AT_FDCWD, "..", O_RDONLY);
    if (up < 0) return -1;
    return fchdir(up) ? -1 : tell("%s", getcwd(cwd, sizeof cwd) ? cwd : strerrorname_np(errno));
}
/* The unreachable directory that a mount covers. */
static long covered(void) { return access("/dev/shm/../../work/other", F_OK); }

static long descriptors(void) {
    for (int fd = 3; fd < 1 << 16; fd++) if (fcntl(fd, F_GETFD) >= 0) tell_more("%d", fd);
    errno = EBADF;
    return -1;
}
static long standard_streams(void) {
    struct stat in, out;
    if (fstat(0, &in) || fstat(1, &out)) return -1;
    return tell("%s %s", S_ISCHR(in.st_mode) && in.st_rdev == makedev(1, 3) ? "null" : "other", S_ISFIFO(out.st_mode) ? "pipe" : "other");
}
static long read_own_log(void) {
    int fd = open("/proc/self/fd/1", O_RDONLY | O_NONBLOCK);
    char byte;
    return fd < 0 ? -1 : read(fd, &byte, 1);
}
static long environment(void) {
    int count = 0;
    for (char **entry = environ; *entry; entry++) count++;
    return tell("%d %s", count, environ[0] ? environ[0] : "");
}

const struct attack view[] = {
    A(mount_tmpfs), A(mount_proc), A(mount_sysfs), A(mount_cgroup), A(mount_bind), A(mount_move), A(mount_shared), A(remount), A(remount_input),
    A(umount_proc), A(umount_root), A(umount_input), A(fs_open), A(fs_config), A(fs_mount), A(fs_pick), A(tree_open),
    A(tree_open_attributes), A(mount_moved), A(mount_attributes), A(mount_stat), A(mount_list), A(pivot), A(change_root), A(open_more),
    A(host_file), A(host_secret), A(host_home), A(boot), A(sysfs), A(cgroups), A(security), A(evidence), A(devices), A(device_listing),
    A(proc_files), A(core_pattern), A(magic_root), A(magic_root_up), A(magic_cwd), A(magic_task), A(linked_out), A(climb),
    A(climb_deleted), A(covered), A(descriptors), A(standard_streams), A(read_own_log), A(environment), END,
};
