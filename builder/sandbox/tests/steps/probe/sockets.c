/* Talking: every kind of socket, and what can be done with the one kind that is allowed. */
#include "probe.h"
#include <net/if.h>
#include <stddef.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/un.h>
#include <linux/vm_sockets.h>
#include <linux/filter.h>

static long inet(void) { return socket(AF_INET, SOCK_STREAM, 0); }
static long inet_datagram(void) { return socket(AF_INET, SOCK_DGRAM, 0); }
static long inet6(void) { return socket(AF_INET6, SOCK_DGRAM, 0); }
static long inet6_stream(void) { return socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0); }
static long raw(void) { return socket(AF_INET, SOCK_RAW, 1); }
static long raw6(void) { return socket(AF_INET6, SOCK_RAW, 58); }
static long ping(void) { return socket(AF_INET, SOCK_DGRAM, 1); }
static long packet(void) { return socket(AF_PACKET, SOCK_RAW, 0); }
static long netlink(void) { return socket(AF_NETLINK, SOCK_RAW, 0); }
static long netlink_events(void) { return socket(AF_NETLINK, SOCK_DGRAM, 15); }
static long netlink_audit(void) { return socket(AF_NETLINK, SOCK_RAW, 9); }
static long netlink_generic(void) { return socket(AF_NETLINK, SOCK_RAW, 16); }
static long can(void) { return socket(AF_CAN, SOCK_RAW, 1); }
static long bluetooth(void) { return socket(AF_BLUETOOTH, SOCK_RAW, 1); }
static long ipsec_key(void) { return socket(AF_KEY, SOCK_RAW, 2); }
static long tipc(void) { return socket(AF_TIPC, SOCK_SEQPACKET, 0); }
static long rds(void) { return socket(AF_RDS, SOCK_SEQPACKET, 0); }
static long alg(void) { return socket(AF_ALG, SOCK_SEQPACKET, 0); }
static long xdp(void) { return socket(44, SOCK_RAW, 0); }
static long high_domain(void) { return sys(SYS_socket, AF_INET | (1L << 32), SOCK_STREAM, 0, 0, 0); }
static long multipath(void) { return socket(AF_INET, SOCK_STREAM, 262); }
static long pair_inet(void) { int fds[2]; return socketpair(AF_INET, SOCK_STREAM, 0, fds); }
static long pair_tipc(void) { int fds[2]; return socketpair(AF_TIPC, SOCK_STREAM, 0, fds); }
static long vsock(void) { return socket(AF_VSOCK, SOCK_STREAM, 0); }
static long vsock_datagram(void) { return socket(AF_VSOCK, SOCK_DGRAM, 0); }
static long vsock_to(unsigned cid) {
    struct sockaddr_vm at = { .svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = 22 };
    int fd = vsock();
    return fd < 0 ? -1 : connect(fd, (void *)&at, sizeof at);
}
static long vsock_host(void) { return vsock_to(2); }
static long vsock_local(void) { return vsock_to(1); }

static long loopback(void) {
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof at;
    int server = inet(), client = inet();
    if (server < 0 || bind(server, (void *)&at, size) || listen(server, 1)) return -1;
    if (getsockname(server, (void *)&at, &size)) return -1;
    return connect(client, (void *)&at, size);
}
static long beyond_loopback(void) {
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(53), .sin_addr.s_addr = htonl(0xC0000201) };
    return connect(inet(), (void *)&at, sizeof at);
}
static long beyond_loopback6(void) {
    struct sockaddr_in6 at = { .sin6_family = AF_INET6, .sin6_port = htons(53), .sin6_addr.s6_addr = { 0x20, 1, 0xd, 0xb8 } };
    return connect(inet6_stream(), (void *)&at, sizeof at);
}
static long datagram_out(void) {
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(53), .sin_addr.s_addr = htonl(0xC0000201) };
    return sendto(inet_datagram(), "x", 1, 0, (void *)&at, sizeof at);
}
static long multicast_out(void) {
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(5353), .sin_addr.s_addr = htonl(0xE00000FB) };
    return sendto(inet_datagram(), "x", 1, 0, (void *)&at, sizeof at);
}
/* Every family and type at once: what is not refused by the filter. */
static long families(void) {
    static const int types[] = { 1, 2, 3, 4, 5, 6, 10, 0, 7, 15 };
    for (int family = 0; family <= 46; family++)
        for (unsigned t = 0; t < sizeof types / sizeof *types; t++) {
            int fd = socket(family, types[t], 0), error = errno;
            if (fd >= 0) tell_more("%d:%d", family, types[t]), close(fd);
            else if (error != EPERM && family != AF_UNIX) tell_more("%d:%d:%s", family, types[t], strerrorname_np(error));
        }
    return 0;
}

static long uring_setup(void) { char params[120] = { 0 }; return sys(SYS_io_uring_setup, 8, (long)params, 0, 0, 0); }
static long uring_enter(void) { return sys(SYS_io_uring_enter, 3, 1, 1, 0, 0); }
static long uring_register(void) { return sys(SYS_io_uring_register, 3, 0, 0, 0, 0); }
static long aio(void) { long context = 0; return sys(SYS_io_setup, 8, (long)&context, 0, 0, 0); }

static long unix_pair(void) { int fds[2]; return socketpair(AF_UNIX, SOCK_STREAM, 0, fds); }
static long unix_name(const char *name, size_t length, int (*use)(int, const struct sockaddr *, socklen_t)) {
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    memcpy(at.sun_path, name, length);
    return use(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&at, offsetof(struct sockaddr_un, sun_path) + length);
}
static long bind_at(const char *path) { return unix_name(path, strlen(path) + 1, bind); }
static long unix_in_work(void) { return bind_at("/work/out/socket"); }
static long unix_in_tmp(void) { return bind_at("/tmp/socket"); }
static long unix_in_shm(void) { return bind_at("/dev/shm/socket"); }
static long unix_in_root(void) { return bind_at("/socket"); }
static long unix_in_input(void) { return bind_at("/inputs/tree/socket"); }
static long unix_abstract(void) { return unix_name("\0kiln-step", 10, bind); }
/* The harness listens there, in the host's network namespace. */
static long unix_of_host(void) { return unix_name("\0kiln-hostile", 13, connect); }
static long unix_of_other(void) { return unix_name("\0kiln-step", 10, connect); }
static long unix_held(void) {
    if (unix_abstract() < 0) return -1;
    puts("holding");
    fflush(stdout);
    for (;;) pause();
}
static long service_sockets(void) {
    static const char *paths[] = { "/run/dbus/system_bus_socket", "/var/run/nscd/socket", "/run/systemd/private", "/run/docker.sock",
                                   "/tmp/.X11-unix/X0", "/run/systemd/journal/socket", "/dev/log", "/run/udev/control" };
    for (unsigned i = 0; i < sizeof paths / sizeof *paths; i++) {
        struct stat found;
        if (!stat(paths[i], &found)) return tell("%s", paths[i]);
    }
    errno = ENOENT;
    return -1;
}
/* The harness listens there, in files that everybody may write to. */
static long service_at(const char *path) {
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    strcpy(at.sun_path, path);
    return connect(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&at, sizeof at);
}
static long service_in_input(void) { return service_at("/inputs/tree/service"); }
static long service_in_root(void) { return service_at("/service"); }
static long fifo_in_input(void) { return open("/inputs/tree/fifo", O_RDWR | O_NONBLOCK); }
static long fifo_in_root(void) { return open("/fifo", O_RDWR | O_NONBLOCK); }
/* Credentials of root on a message. */
static long forged_sender(void) {
    int fds[2], one = 1;
    struct ucred root = { .pid = 1, .uid = 0, .gid = 0 };
    union { char bytes[CMSG_SPACE(sizeof root)]; struct cmsghdr align; } control = { { 0 } };
    struct iovec part = { "x", 1 };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
    if (socketpair(AF_UNIX, SOCK_DGRAM, 0, fds) || setsockopt(fds[1], SOL_SOCKET, SO_PASSCRED, &one, sizeof one)) return -1;
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET, head->cmsg_type = SCM_CREDENTIALS, head->cmsg_len = CMSG_LEN(sizeof root);
    memcpy(CMSG_DATA(head), &root, sizeof root);
    return sendmsg(fds[0], &message, 0);
}
static long option(int name) {
    int value = 1 << 20;
    return setsockopt(socket(AF_UNIX, SOCK_DGRAM, 0), SOL_SOCKET, name, &value, sizeof value);
}
static long force_buffer(void) { return option(SO_RCVBUFFORCE); }
static long socket_mark(void) { return option(SO_MARK); }
static long attach_bpf(void) { return option(SO_ATTACH_BPF); }
/* Device ioctls pass through any socket. */
static long interface_up(void) {
    struct ifreq request = { .ifr_flags = IFF_UP };
    strcpy(request.ifr_name, "lo");
    return ioctl(socket(AF_UNIX, SOCK_DGRAM, 0), SIOCSIFFLAGS, &request);
}
static long interfaces(void) {
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    for (int index = 1; index < 4096; index++) {
        struct ifreq request = { .ifr_ifindex = index };
        if (!ioctl(fd, SIOCGIFNAME, &request) && strncmp(request.ifr_name, "lo", 3)) tell_more("%s", request.ifr_name);
    }
    errno = ENODEV;
    return -1;
}
static long tunnel(void) {
    struct ifreq request = { 0 };
    strcpy(request.ifr_name, "evil0");
    return ioctl(socket(AF_UNIX, SOCK_DGRAM, 0), 0x89F1, &request); /* SIOCADDTUNNEL */
}

const struct attack sockets[] = {
    A(inet), A(inet_datagram), A(inet6), A(inet6_stream), A(raw), A(raw6), A(ping), A(packet), A(netlink), A(netlink_events),
    A(netlink_audit), A(netlink_generic), A(can), A(bluetooth), A(ipsec_key), A(tipc), A(rds), A(alg), A(xdp), A(high_domain),
    A(multipath), A(pair_inet), A(pair_tipc), A(vsock), A(vsock_datagram), A(vsock_host), A(vsock_local), A(loopback),
    A(beyond_loopback), A(beyond_loopback6), A(datagram_out), A(multicast_out), A(families), A(uring_setup), A(uring_enter),
    A(uring_register), A(aio), A(unix_pair), A(unix_in_work), A(unix_in_tmp), A(unix_in_shm), A(unix_in_root), A(unix_in_input),
    A(unix_abstract), A(unix_of_host), A(unix_of_other), A(unix_held), A(service_sockets), A(service_in_input), A(service_in_root), A(fifo_in_input), A(fifo_in_root), A(forged_sender), A(force_buffer),
    A(socket_mark), A(attach_bpf), A(interface_up), A(interfaces), A(tunnel), END,
};
