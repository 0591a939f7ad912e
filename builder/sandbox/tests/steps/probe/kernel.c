/* The kernel's surface: calls that no build needs, and settings of one's own process that must not reach further. */
#include "probe.h"
#include <linux/bpf.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>

static long bpf_map(void) {
    union bpf_attr attr = { .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1 };
    return sys(SYS_bpf, BPF_MAP_CREATE, (long)&attr, sizeof attr, 0, 0);
}
static long bpf_program(void) {
    static const struct bpf_insn code[] = { { .code = 0xb7 }, { .code = 0x95 } };
    union bpf_attr attr = { .prog_type = BPF_PROG_TYPE_SOCKET_FILTER, .insn_cnt = 2, .insns = (uint64_t)code, .license = (uint64_t)"GPL" };
    return sys(SYS_bpf, BPF_PROG_LOAD, (long)&attr, sizeof attr, 0, 0);
}
static long perf(void) { char attr[128] = { 0 }; return sys(SYS_perf_event_open, (long)attr, 0, -1, -1, 0); }
static long userfault(void) { return sys(SYS_userfaultfd, 1, 0, 0, 0, 0); }
static long keyring(void) { return sys(SYS_keyctl, 0, -3, 1, 0, 0); }
static long keyring_join(void) { return sys(SYS_keyctl, 1, 0, 0, 0, 0); }
static long keyring_persistent(void) { return sys(SYS_keyctl, 22, -1, -4, 0, 0); }
static long key_add(void) { return sys(SYS_add_key, (long)"user", (long)"k", (long)"v", 1, -3); }
static long key_add_user(void) { return sys(SYS_add_key, (long)"user", (long)"k", (long)"v", 1, -4); }
static long key_request(void) { return sys(SYS_request_key, (long)"user", (long)"k", (long)"c", -3, 0); }
static long reboot_right(void) { return sys(SYS_reboot, 0xfee1dead, 672274793, 0, 0, 0); }
static long reboot_wrong(void) { return sys(SYS_reboot, 1, 2, 3, 0, 0); }
static long reboot_restart(void) { return sys(SYS_reboot, 0xfee1dead, 672274793, 0x01234567, 0, 0); }
static long kexec(void) { return sys(SYS_kexec_load, 0, 0, 0, 0, 0); }
static long kexec_file(void) { return sys(SYS_kexec_file_load, -1, -1, 0, (long)"", 0); }
static long module(void) { return sys(SYS_init_module, (long)"", 0, (long)"", 0, 0); }
static long module_file(void) { return sys(SYS_finit_module, -1, (long)"", 0, 0, 0); }
static long module_delete(void) { return sys(SYS_delete_module, (long)"evil", 0, 0, 0, 0); }
static long set_clock(void) { struct timespec t = { 1, 0 }; return clock_settime(CLOCK_REALTIME, &t); }
static long set_time(void) { long t[2] = { 1, 0 }; return sys(SYS_settimeofday, (long)t, 0, 0, 0, 0); }
static long adjust_time(void) { char b[256] = { 1 }; return sys(SYS_adjtimex, (long)b, 0, 0, 0, 0); }
static long adjust_clock(void) { char b[256] = { 1 }; return sys(SYS_clock_adjtime, 0, (long)b, 0, 0, 0); }
static long wake_alarm(void) { timer_t timer; return timer_create(CLOCK_REALTIME_ALARM, NULL, &timer); }
static long host_name(void) { return sethostname("evil", 4); }
static long domain_name(void) { return setdomainname("evil", 4); }
static long read_implies_exec(void) { return sys(SYS_personality, 0x0400000, 0, 0, 0, 0); }
static long personality_32(void) { return sys(SYS_personality, 8, 0, 0, 0, 0); }
static long personality_query(void) { return sys(SYS_personality, 0xffffffff, 0, 0, 0, 0); }
static long io_ports(void) { return sys(SYS_iopl, 3, 0, 0, 0, 0); }
static long io_permission(void) { return sys(SYS_ioperm, 0x80, 1, 1, 0, 0); }
static long local_descriptors(void) { char d[16] = { 0 }; return sys(SYS_modify_ldt, 1, (long)d, sizeof d, 0, 0); }
static long kernel_log(void) { return sys(SYS_syslog, 10, 0, 0, 0, 0); }
static long swap_on(void) { return sys(SYS_swapon, (long)"/work/out/swap", 0, 0, 0, 0); }
static long swap_off(void) { return sys(SYS_swapoff, (long)"/work/out/swap", 0, 0, 0, 0); }
static long accounting(void) { return sys(SYS_acct, (long)"/work/out/acct", 0, 0, 0, 0); }
static long quota(void) { return sys(SYS_quotactl, 0x800002, (long)"/dev/root", 0, 0, 0); }
static long quota_file(void) { return sys(SYS_quotactl_fd, 0, 0x800002, 0, 0, 0); }
static long hangup(void) { return sys(SYS_vhangup, 0, 0, 0, 0, 0); }
static long old_library(void) { return sys(SYS_uselib, (long)"/probe", 0, 0, 0, 0); }
static long cookie(void) { return sys(SYS_lookup_dcookie, 0, 0, 0, 0, 0); }
static long nfs_server(void) { return sys(SYS_nfsservctl, 0, 0, 0, 0, 0); }
static long old_sysctl(void) { return sys(SYS__sysctl, 0, 0, 0, 0, 0); }
static long handle_open(void) { return sys(SYS_open_by_handle_at, AT_FDCWD, (long)"", 0, 0, 0); }
static long handle_name(void) {
    struct { unsigned bytes; int type; char data[128]; } handle = { 128, 0, { 0 } };
    int mount;
    return sys(SYS_name_to_handle_at, AT_FDCWD, (long)"/", (long)&handle, (long)&mount, 0);
}
static long notify_init(void) { return sys(SYS_fanotify_init, 0, 0, 0, 0, 0); }
static long notify_unprivileged(void) { return sys(SYS_fanotify_init, 0x200, 0, 0, 0, 0); }
static long notify_mark(void) { return sys(SYS_fanotify_mark, 0, 1, 1, -1, (long)"/"); }
static long secret_memory(void) { return sys(447, 0, 0, 0, 0, 0); }
static long bind_memory(void) { return sys(SYS_mbind, 0, 4096, 0, 0, 0); }
static long migrate(void) { unsigned long n = 1; return sys(SYS_migrate_pages, 1, 8, (long)&n, (long)&n, 0); }
static long move_memory(void) { return sys(SYS_move_pages, 1, 0, 0, 0, 0); }
static long memory_policy(void) { return sys(SYS_set_mempolicy, 0, 0, 0, 0, 0); }
static long ask_memory_policy(void) { int mode; return sys(SYS_get_mempolicy, (long)&mode, 0, 0, 0, 0); }
static long unknown_call(void) { return sys(9999, 0, 0, 0, 0, 0); }
static long negative_call(void) { return sys(-1, 0, 0, 0, 0, 0); }
static long landlock_ask(void) { return sys(444, 0, 0, 1, 0, 0); }

/* Scheduling, limits, privileges of its own process. */
static long real_time(void) { struct sched_param p = { 1 }; return sched_setscheduler(0, SCHED_FIFO, &p); }
static long round_robin(void) { struct sched_param p = { 1 }; return sched_setscheduler(0, SCHED_RR, &p); }
static long deadline(void) {
    struct { uint32_t size, policy; uint64_t flags; int32_t nice; uint32_t priority; uint64_t runtime, deadline, period; } attr =
        { 48, 6, 0, 0, 0, 10000000, 30000000, 30000000 };
    return sys(SYS_sched_setattr, 0, (long)&attr, 0, 0, 0);
}
static long nice_up(void) { return setpriority(PRIO_PROCESS, 0, -20); }
static long io_real_time(void) { return sys(SYS_ioprio_set, 1, 0, 1 << 13, 0, 0); }
static long no_processor(void) { unsigned long mask[16] = { 0 }; mask[15] = 1UL << 63; return sys(SYS_sched_setaffinity, 0, sizeof mask, (long)mask, 0, 0); }
static long raise_limit(int resource) { struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY }; return setrlimit(resource, &limit); }
static long raise_files(void) { return raise_limit(RLIMIT_NOFILE); }
static long raise_core(void) { return raise_limit(RLIMIT_CORE); }
static long raise_file_size(void) { return raise_limit(RLIMIT_FSIZE); }
static long raise_locked(void) { return raise_limit(RLIMIT_MEMLOCK); }
static long raise_queue(void) { return raise_limit(RLIMIT_MSGQUEUE); }
static long raise_nice(void) { return raise_limit(RLIMIT_NICE); }
static long raise_real_time(void) { return raise_limit(RLIMIT_RTPRIO); }
static long raise_signals(void) { return raise_limit(RLIMIT_SIGPENDING); }
static long spare_me(void) { return open("/proc/self/oom_score_adj", O_WRONLY); }
static long core_dump(void) {
    fflush(stdout);
    pid_t child = fork();
    if (!child) { chdir("/work/out"); abort(); }
    int status;
    waitpid(child, &status, 0);
    return tell(WCOREDUMP(status) || !access("/work/out/core", F_OK) ? "dumped" : "no core");
}
static long become_root(void) { return setuid(0); }
static long become_root_group(void) { return setgid(0); }
static long become_other(void) { return setresuid(100008, 100008, 100008); }
static long join_groups(void) { gid_t group = 0; return sys(SYS_setgroups, 1, (long)&group, 0, 0, 0); }
static long all_capabilities(void) {
    struct { uint32_t version; int pid; } head = { 0x20080522, 0 };
    uint32_t sets[6] = { ~0U, ~0U, 0, ~0U, ~0U, 0 };
    return sys(SYS_capset, (long)&head, (long)sets, 0, 0, 0);
}
static long ambient(void) { return prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 21, 0, 0); }
static long bounding(void) { return prctl(PR_CAPBSET_READ, 21) > 0 ? 0 : (errno = EPERM, -1); }
static long keep_capabilities(void) { return prctl(PR_SET_KEEPCAPS, 1); }
static long secure_bits(void) { return prctl(PR_SET_SECUREBITS, 0); }
static long new_privileges(void) { return prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0); }
static long asks_no_new_privileges(void) { return tell("%d", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)); }
static long memory_layout(void) { return prctl(PR_SET_MM, PR_SET_MM_BRK, 0x400000, 0, 0); }
static long io_flusher(void) { return prctl(57, 1, 0, 0, 0); }
static long any_tracer(void) { return prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0); }
static long subreaper(void) { return prctl(PR_SET_CHILD_SUBREAPER, 1); }
static long strict_mode(void) { return prctl(PR_SET_SECCOMP, 1, 0, 0, 0); }

/* Filters of its own: tighter or nothing. */
struct program { uint16_t length; const void *code; };
static const struct { uint16_t code; uint8_t jt, jf; uint32_t k; } allow = { 6, 0, 0, 0x7fff0000 };
static const struct program allow_all = { 1, &allow };
static long listener(void) { return sys(SYS_seccomp, 1, 8, (long)&allow_all, 0, 0); }
static long listener_synced(void) { return sys(SYS_seccomp, 1, 8 | 16 | 1, (long)&allow_all, 0, 0); }
static long looser_filter(void) {
    if (prctl(PR_SET_SECCOMP, 2, &allow_all, 0, 0)) return -1;
    return sys(SYS_unshare, CLONE_NEWUSER, 0, 0, 0, 0);
}
static long filter_away(void) { return prctl(PR_SET_SECCOMP, 0, 0, 0, 0); }

/* Terminals, and whatever the devices answer to. */
static long terminal(void) { char c = 'x'; return ioctl(0, 0x5412, &c); }
static long terminal_high(void) { char c = 'x'; return sys(SYS_ioctl, 0, 0x5412 | (1L << 32), (long)&c, 0, 0); }
static long terminal_linux(void) { char c = 2; return ioctl(0, 0x541C, &c); }
static long terminal_discipline(void) { int d = 3; return ioctl(0, 0x5423, &d); }
static long terminal_control(void) { return ioctl(0, 0x540E, 1); }
static long entropy(void) { struct { int bits, size; char b[4]; } e = { 32, 4, "aaa" }; return ioctl(open("/dev/random", O_RDWR), 0x40085203, &e); }
static long entropy_reseed(void) { return ioctl(open("/dev/urandom", O_RDWR), 0x5207, 0); }
/* The commands of files, disks, random numbers, terminals and sockets on every device: which are answered by something else than
 * "no such command" or Landlock. */
static long ioctl_walk(void) {
    static const char *devices[] = { "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom" };
    static char area[65536];
    for (unsigned d = 0; d < 5; d++) {
        int fd = open(devices[d], O_RDWR);
        for (unsigned at = 0; at < 5 * 256; at++) {
            static const unsigned ranges[] = { 0x0000, 0x1200, 0x5200, 0x5400, 0x8900 };
            unsigned command = ranges[at / 256] + at % 256;
            memset(area, 0, 64);
            if (ioctl(fd, command, area) >= 0 && d == 0) tell_more("%x", command);
            else if (errno != ENOTTY && errno != EACCES && errno != EPERM && d == 0) tell_more("%x:%s", command, strerrorname_np(errno));
            if (d && fcntl(fd, F_GETFD) < 0) return tell("%s lost at %x", devices[d], command);
        }
    }
    return 0;
}

const struct attack kernel[] = {
    A(bpf_map), A(bpf_program), A(perf), A(userfault), A(keyring), A(keyring_join), A(keyring_persistent), A(key_add), A(key_add_user),
    A(key_request), A(reboot_right), A(reboot_wrong), A(reboot_restart), A(kexec), A(kexec_file), A(module), A(module_file),
    A(module_delete), A(set_clock), A(set_time), A(adjust_time), A(adjust_clock), A(wake_alarm), A(host_name), A(domain_name),
    A(read_implies_exec), A(personality_32), A(personality_query), A(io_ports), A(io_permission), A(local_descriptors), A(kernel_log),
    A(swap_on), A(swap_off), A(accounting), A(quota), A(quota_file), A(hangup), A(old_library), A(cookie), A(nfs_server), A(old_sysctl),
    A(handle_open), A(handle_name), A(notify_init), A(notify_unprivileged), A(notify_mark), A(secret_memory), A(bind_memory),
    A(migrate), A(move_memory), A(memory_policy), A(ask_memory_policy), A(unknown_call), A(negative_call), A(landlock_ask),
    A(real_time), A(round_robin), A(deadline), A(nice_up), A(io_real_time), A(no_processor), A(raise_files), A(raise_core),
    A(raise_file_size), A(raise_locked), A(raise_queue), A(raise_nice), A(raise_real_time), A(raise_signals), A(spare_me),
    A(core_dump), A(become_root), A(become_root_group), A(become_other), A(join_groups), A(all_capabilities), A(ambient), A(bounding),
    A(keep_capabilities), A(secure_bits), A(new_privileges), A(asks_no_new_privileges), A(memory_layout), A(io_flusher),
    A(any_tracer), A(subreaper), A(strict_mode), A(listener), A(listener_synced), A(looser_filter), A(filter_away), A(terminal),
    A(terminal_high), A(terminal_linux), A(terminal_discipline), A(terminal_control), A(entropy), A(entropy_reseed), A(ioctl_walk),
    END,
};
