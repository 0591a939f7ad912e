/* Namespaces: each kind, by each call that makes or enters one. */
#include "probe.h"

static long unshare_user(void) { return unshare(CLONE_NEWUSER); }
static long unshare_mount(void) { return unshare(CLONE_NEWNS); }
static long unshare_net(void) { return unshare(CLONE_NEWNET); }
static long unshare_pid(void) { return unshare(CLONE_NEWPID); }
static long unshare_ipc(void) { return unshare(CLONE_NEWIPC); }
static long unshare_uts(void) { return unshare(CLONE_NEWUTS); }
static long unshare_cgroup(void) { return unshare(CLONE_NEWCGROUP); }
static long unshare_time(void) { return unshare(0x80); }
static long unshare_both(void) { return unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET); }
static long unshare_high(void) { return sys(SYS_unshare, CLONE_NEWUSER | (1L << 40), 0, 0, 0, 0); }

static long clone_with(long flags) {
    long child = sys(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
    if (child == 0) _exit(0);
    if (child > 0) waitpid(child, NULL, 0);
    return child;
}
static long clone_user(void) { return clone_with(CLONE_NEWUSER); }
static long clone_mount(void) { return clone_with(CLONE_NEWNS); }
static long clone_net(void) { return clone_with(CLONE_NEWNET); }
static long clone_pid(void) { return clone_with(CLONE_NEWPID); }
static long clone_ipc(void) { return clone_with(CLONE_NEWIPC); }
static long clone_uts(void) { return clone_with(CLONE_NEWUTS); }
static long clone_cgroup(void) { return clone_with(CLONE_NEWCGROUP); }
static long clone_high(void) { return clone_with(CLONE_NEWUSER | (1L << 33)); }
/* A sibling: a child of the sandbox init. */
static long clone_parent(void) { return clone_with(CLONE_PARENT); }
static long clone_traced(void) { return clone_with(CLONE_PTRACE); }

static long clone3_with(uint64_t flags, uint64_t cgroup) {
    uint64_t field[11] = { [0] = flags, [4] = SIGCHLD, [10] = cgroup };
    long child = sys(SYS_clone3, (long)field, sizeof field, 0, 0, 0);
    if (child == 0) _exit(0);
    return child;
}
static long clone3_plain(void) { return clone3_with(0, 0); }
static long clone3_user(void) { return clone3_with(CLONE_NEWUSER, 0); }
static long clone3_time(void) { return clone3_with(0x80, 0); }
static long clone3_cgroup(void) { return clone3_with(0x200000000, open("/", O_PATH)); }

static long set_own(void) { int fd = open("/proc/self/ns/net", O_RDONLY); return fd < 0 ? -1 : setns(fd, 0); }
static long set_pidfd(void) { return setns(sys(SYS_pidfd_open, 1, 0, 0, 0, 0), CLONE_NEWNET | CLONE_NEWNS); }
static long set_nothing(void) { return setns(-1, 0); }
/* Owner and parent of one's own: ioctls on namespace files. */
static long parent_user(void) { return sys(SYS_ioctl, open("/proc/self/ns/user", O_RDONLY), 0xb702, 0, 0, 0); }
static long owning_user(void) { return sys(SYS_ioctl, open("/proc/self/ns/net", O_RDONLY), 0xb701, 0, 0, 0); }
static long parent_pid(void) { return sys(SYS_ioctl, open("/proc/self/ns/pid", O_RDONLY), 0xb702, 0, 0, 0); }
static long next_mount(void) { uint64_t info[4] = { 16 }; return sys(SYS_ioctl, open("/proc/self/ns/mnt", O_RDONLY), 0x8010b70b, (long)info, 0, 0); }
static long list_namespaces(void) { uint64_t request[5] = { 40 }, found[8]; return sys(470, (long)request, (long)found, 8, 0, 0); }
static long map_users(void) { return open("/proc/self/uid_map", O_WRONLY); }
static long allow_groups(void) { return open("/proc/self/setgroups", O_WRONLY); }
static long shift_clock(void) { return open("/proc/self/timens_offsets", O_WRONLY); }

const struct attack namespaces[] = {
    A(unshare_user), A(unshare_mount), A(unshare_net), A(unshare_pid), A(unshare_ipc), A(unshare_uts), A(unshare_cgroup),
    A(unshare_time), A(unshare_both), A(unshare_high), A(clone_user), A(clone_mount), A(clone_net), A(clone_pid), A(clone_ipc),
    A(clone_uts), A(clone_cgroup), A(clone_high), A(clone_parent), A(clone_traced), A(clone3_plain), A(clone3_user), A(clone3_time),
    A(clone3_cgroup), A(set_own), A(set_pidfd), A(set_nothing), A(parent_user), A(owning_user), A(parent_pid), A(next_mount),
    A(list_namespaces), A(map_users), A(allow_groups), A(shift_clock), END,
};
