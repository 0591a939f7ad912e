/* Files: writing where only reading is allowed, special files, set-id bits, attributes. */
#include "probe.h"
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/xattr.h>

/* The root, the scaffold, /dev, /proc. */
static long write_root(void) { return create("/evil"); }
static long write_usr(void) { return create("/usr/bin/evil"); }
static long write_tool(void) { return open("/usr/bin/tool", O_WRONLY | O_TRUNC); }
static long unlink_tool(void) { return unlink("/usr/bin/tool"); }
static long rename_tool(void) { return rename("/usr/bin/tool", "/usr/bin/other"); }
static long chmod_tool(void) { return chmod("/usr/bin/tool", 0777); }
static long chown_tool(void) { return chown("/usr/bin/tool", 1000, 1000); }
static long write_etc(void) { return create("/etc/passwd"); }
static long write_scaffold(void) { return create("/work/evil"); }
static long dir_in_scaffold(void) { return mkdir("/work/evil", 0700); }
static long write_dev(void) { return create("/dev/evil"); }
static long link_in_dev(void) { return symlink("/work/out", "/dev/evil"); }
static long write_proc(void) { return open("/proc/self/comm", O_WRONLY); }

/* An input, by every way there is to change a file. */
static long write_input(void) { return open("/inputs/data", O_WRONLY); }
static long append_input(void) { return open("/inputs/data", O_RDWR | O_APPEND); }
static long truncate_input(void) { return truncate("/inputs/data", 0); }
static long open_truncate_input(void) { return open("/inputs/data", O_RDONLY | O_TRUNC); }
static int input(void) { return open("/inputs/data", O_RDONLY); }
static long ftruncate_input(void) { return ftruncate(input(), 0); }
static long fallocate_input(void) { return sys(SYS_fallocate, input(), 0, 0, 4096, 0); }
static long punch_input(void) { return sys(SYS_fallocate, input(), 3, 0, 1, 0); }
static long map_input(void) { return mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, input(), 0) == MAP_FAILED ? -1 : 0; }
static long map_input_later(void) {
    char *bytes = mmap(NULL, 4096, PROT_READ, MAP_SHARED, input(), 0);
    return bytes == MAP_FAILED ? -1 : mprotect(bytes, 4096, PROT_READ | PROT_WRITE);
}
static long reopen_input(void) { char path[64]; sprintf(path, "/proc/self/fd/%d", input()); return open(path, O_RDWR); }
static long reopen_input_path(void) { char path[64]; sprintf(path, "/proc/self/fd/%d", open("/inputs/data", O_PATH)); return open(path, O_RDWR); }
static long chmod_input(void) { return chmod("/inputs/data", 0777); }
static long fchmod_input(void) { return fchmod(input(), 0777); }
static long chown_input(void) { return chown("/inputs/data", 1000, 1000); }
static long touch_input(void) { return utimes("/inputs/data", NULL); }
static long unlink_input(void) { return unlink("/inputs/tree/file"); }
static long rename_input(void) { return rename("/inputs/tree/file", "/work/out/taken"); }
static long rename_over_input(void) { create("/work/out/mine"); return rename("/work/out/mine", "/inputs/data"); }
static long rename_mount(void) { return rename("/inputs/data", "/inputs/other"); }
static long exchange_input(void) { create("/work/out/mine"); return sys(SYS_renameat2, AT_FDCWD, (long)"/work/out/mine", AT_FDCWD, (long)"/inputs/tree/file", 2); }
static long link_input(void) { return link("/inputs/data", "/work/out/linked"); }
static long link_into_input(void) { create("/work/out/mine"); return link("/work/out/mine", "/inputs/tree/mine"); }
static long link_descriptor(void) { return linkat(input(), "", AT_FDCWD, "/work/out/linked", AT_EMPTY_PATH); }
static long dir_in_input(void) { return mkdir("/inputs/tree/evil", 0700); }
static long nameless_in_input(void) { return open("/inputs/tree", O_TMPFILE | O_RDWR, 0600); }
static long attribute_input(void) { return setxattr("/inputs/data", "user.k", "v", 1, 0); }
static long flags_input(void) { int flags = 0x10; return ioctl(input(), FS_IOC_SETFLAGS, &flags); }
static long trim_input(void) { uint64_t range[3] = { 0, ~0UL, 0 }; return ioctl(input(), FITRIM, range); }
static long freeze(void) { return ioctl(open("/work/out", O_RDONLY), FIFREEZE, 0); }
static long clone_input(void) { return ioctl(create("/work/out/copy"), FICLONE, input()); }
static long splice_into_input(void) {
    int fds[2], fd = input();
    char got[6] = { 0 };
    if (pipe(fds)) return -1;
    /* Fill and drain the pipe so that its buffers are mergeable, splice a page of the file in, write over it. */
    static char block[4096];
    for (int i = 0; i < 16; i++) if (write(fds[1], block, sizeof block) < 0) return -1;
    for (int i = 0; i < 16; i++) if (read(fds[0], block, sizeof block) < 0) return -1;
    loff_t from = 0;
    if (splice(fd, &from, fds[1], NULL, 1, 0) < 0 || write(fds[1], "EVIL", 4) != 4) return -1;
    if (pread(fd, got, 5, 0) != 5) return -1;
    return tell(strcmp(got, "input") ? "changed" : "unchanged");
}

/* Where writing is allowed. */
static long write_work(void) { return create("/work/out/file"); }
static long dir_in_work(void) { return mkdir("/work/out/dir", 0700); }
static long file_in_shm(void) { return create("/dev/shm/file"); }
static long dir_in_shm(void) { return mkdir("/dev/shm/dir", 0700); }
static long link_in_shm(void) { return symlink("/", "/dev/shm/link"); }
static long fifo_in_work(void) { return mkfifo("/work/out/fifo", 0600); }
static long fifo_in_tmp(void) { return mkfifo("/tmp/fifo", 0600); }
static long fifo_moved(void) { return mkfifo("/tmp/fifo", 0600) ? -1 : rename("/tmp/fifo", "/work/out/fifo"); }
static long node(const char *path, mode_t mode, int major, int minor) { return mknod(path, mode | 0666, makedev(major, minor)); }
static long node_null(void) { return node("/work/out/null", S_IFCHR, 1, 3); }
static long node_mem(void) { return node("/tmp/mem", S_IFCHR, 1, 1); }
static long node_disk(void) { return node("/tmp/disk", S_IFBLK, 8, 0); }
static long node_tpm(void) { return node("/work/out/tpm", S_IFCHR, 10, 224); }
static long node_shm(void) { return node("/dev/shm/kmsg", S_IFCHR, 1, 11); }
static long node_whiteout(void) { return node("/work/out/white", S_IFCHR, 0, 0); }
static long node_at(void) { return mknodat(AT_FDCWD, "/work/out/at", S_IFBLK | 0666, makedev(8, 0)); }
static long node_socket(void) { return node("/work/out/socket", S_IFSOCK, 0, 0); }
static long node_plain(void) { return node("/work/out/plain", 0, 0, 0); }
static long rename_whiteout(const char *from, const char *to) { create(from); return sys(SYS_renameat2, AT_FDCWD, (long)from, AT_FDCWD, (long)to, 4); }
static long whiteout_in_work(void) { return rename_whiteout("/work/out/a", "/work/out/b"); }
static long whiteout_in_tmp(void) { return rename_whiteout("/tmp/a", "/tmp/b"); }

/* Set-id bits, by every call that takes a mode. */
static long set_id(void) { return chmod("/work/out", 04755); }
static long set_id_file(void) { return fchmod(create("/work/out/s"), 04755); }
static long set_group_id(void) { return fchmod(create("/work/out/s"), 02755); }
static long set_id_at(void) { create("/work/out/s"); return fchmodat(AT_FDCWD, "/work/out/s", 04755, 0); }
static long set_id_at2(void) { create("/work/out/s"); return sys(452, AT_FDCWD, (long)"/work/out/s", 06755, 0, 0); }
static long set_id_open(void) { return sys(SYS_open, (long)"/work/out/s", O_CREAT | O_WRONLY, 04755, 0, 0); }
static long set_id_openat(void) { return openat(AT_FDCWD, "/work/out/s", O_CREAT | O_WRONLY, 02755); }
static long set_id_creat(void) { return sys(SYS_creat, (long)"/work/out/s", 04755, 0, 0, 0); }
static long set_id_mkdir(void) { return mkdir("/work/out/d", 02755); }
static long set_id_mkdirat(void) { return mkdirat(AT_FDCWD, "/work/out/d", 04755); }
static long set_id_mknod(void) { return mknod("/work/out/s", S_IFREG | 04755, 0); }
static long set_id_mknodat(void) { return mknodat(AT_FDCWD, "/work/out/s", 04755, 0); }
static long set_id_nameless(void) { return open("/work/out", O_TMPFILE | O_RDWR, 04755); }
static long set_id_high(void) { return sys(SYS_fchmod, create("/work/out/s"), 04755 | (1L << 32), 0, 0, 0); }
static long set_id_type(void) { return sys(SYS_fchmod, create("/work/out/s"), 0104755, 0, 0, 0); }
static long set_id_linked(void) {
    int fd = open("/work/out", O_TMPFILE | O_RDWR, 0755);
    char path[64];
    sprintf(path, "/proc/self/fd/%d", fd);
    if (fd < 0 || linkat(AT_FDCWD, path, AT_FDCWD, "/work/out/linked", AT_SYMLINK_FOLLOW)) return -1;
    return chmod("/work/out/linked", 06755);
}
static long set_sticky(void) { return mkdir("/work/out/sticky", 01777); }
static long give_away(void) { return chown("/work/out", 0, 0); }
static long give_file(void) { return fchown(create("/work/out/mine"), 1001, 1001); }

/* Attributes. */
static int file(void) { return create("/tmp/a"); }
static long attribute(void) { file(); return setxattr("/tmp/a", "user.k", "v", 1, 0); }
static long attribute_link(void) { file(); return lsetxattr("/tmp/a", "user.k", "v", 1, 0); }
static long attribute_file(void) { return fsetxattr(file(), "user.k", "v", 1, 0); }
static long attribute_at(void) { uint64_t a[2] = { (uint64_t)"v", 1 }; file(); return syscall(463, AT_FDCWD, "/tmp/a", 0, "user.k", a, sizeof a); }
static long attribute_remove(void) { file(); return removexattr("/tmp/a", "user.k"); }
static long file_capability(void) { static const uint32_t v[5] = { 0x02000001, ~0U }; file(); return setxattr("/tmp/a", "security.capability", v, sizeof v, 0); }
static long access_list(void) { file(); return setxattr("/work/out", "system.posix_acl_access", "\2\0\0\0", 4, 0); }
static long trusted_attribute(void) { file(); return setxattr("/tmp/a", "trusted.overlay.opaque", "y", 1, 0); }
static long immutable(void) { int flags = 0x10; return ioctl(file(), FS_IOC_SETFLAGS, &flags); }
static long project(void) { uint32_t attr[7] = { 0 }; return ioctl(file(), FS_IOC_FSSETXATTR, attr); }
static long file_attributes(void) { uint64_t a[4] = { 0 }; file(); return syscall(469, AT_FDCWD, "/tmp/a", a, 24, 0); }

const struct attack files[] = {
    A(write_root), A(write_usr), A(write_tool), A(unlink_tool), A(rename_tool), A(chmod_tool), A(chown_tool), A(write_etc),
    A(write_scaffold), A(dir_in_scaffold), A(write_dev), A(link_in_dev), A(write_proc), A(write_input), A(append_input),
    A(truncate_input), A(open_truncate_input), A(ftruncate_input), A(fallocate_input), A(punch_input), A(map_input),
    A(map_input_later), A(reopen_input), A(reopen_input_path), A(chmod_input), A(fchmod_input), A(chown_input), A(touch_input),
    A(unlink_input), A(rename_input), A(rename_over_input), A(rename_mount), A(exchange_input), A(link_input), A(link_into_input),
    A(link_descriptor), A(dir_in_input), A(nameless_in_input), A(attribute_input), A(flags_input), A(trim_input), A(freeze),
    A(clone_input), A(splice_into_input), A(write_work), A(dir_in_work), A(file_in_shm), A(dir_in_shm), A(link_in_shm),
    A(fifo_in_work), A(fifo_in_tmp), A(fifo_moved), A(node_null), A(node_mem), A(node_disk), A(node_tpm), A(node_shm), A(node_whiteout),
    A(node_at), A(node_socket), A(node_plain), A(whiteout_in_work), A(whiteout_in_tmp), A(set_id), A(set_id_file), A(set_group_id),
    A(set_id_at), A(set_id_at2), A(set_id_open), A(set_id_openat), A(set_id_creat), A(set_id_mkdir), A(set_id_mkdirat),
    A(set_id_mknod), A(set_id_mknodat), A(set_id_nameless), A(set_id_high), A(set_id_type), A(set_id_linked), A(set_sticky),
    A(give_away), A(give_file), A(attribute), A(attribute_link), A(attribute_file), A(attribute_at), A(attribute_remove),
    A(file_capability), A(access_list), A(trusted_attribute), A(immutable), A(project), A(file_attributes), END,
};
