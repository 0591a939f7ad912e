/* Running code: from memory, from scripts, of other instruction sets, with more rights. */
#include "probe.h"
#include <elf.h>

#define EMPTY AT_EMPTY_PATH

static int copy_self(int to) {
    int self = open("/proc/self/exe", O_RDONLY);
    static char block[65536];
    for (ssize_t got; (got = read(self, block, sizeof block)) > 0;) if (write(to, block, got) != got) return -1;
    return close(self);
}
static long memfd_with(unsigned flags) {
    int fd = memfd_create("m", flags);
    if (fd < 0 || copy_self(fd)) return -1;
    return execute(fd, "", "nothing", EMPTY);
}
static long memfd_exec(void) { return memfd_with(0); }
static long memfd_exec_asked(void) { return memfd_with(0x10); }
static long memfd_exec_cloexec(void) { return memfd_with(0x10 | 1); }
static long memfd_sealed(void) { return memfd_with(8); }
static long memfd_chmod(void) { int fd = memfd_create("m", 0); return fd < 0 || copy_self(fd) || fchmod(fd, 0777) ? -1 : execute(fd, "", "nothing", EMPTY); }
static long memfd_by_name(void) {
    int fd = memfd_create("m", 0);
    char path[64];
    sprintf(path, "/proc/self/fd/%d", fd);
    return fd < 0 || copy_self(fd) ? -1 : execute(AT_FDCWD, path, "nothing", 0);
}
static long memfd_plain(void) { return memfd_create("m", 8); }
static long run_from(const char *path) {
    int fd = open(path, O_CREAT | O_WRONLY, 0755);
    if (fd < 0 || copy_self(fd)) return -1;
    close(fd);
    return execute(AT_FDCWD, path, "nothing", 0);
}
static long exec_in_work(void) { return run_from("/work/out/program"); }
static long exec_in_tmp(void) { return run_from("/tmp/program"); }
static long exec_in_shm(void) { return run_from("/dev/shm/program"); }
static long exec_by_descriptor(void) { return execute(open("/dev/shm/program", O_CREAT | O_RDONLY, 0755), "", "nothing", EMPTY); }
static long exec_unlinked(void) {
    if (run_from("/work/out/gone") < 0) return -1;
    int fd = open("/work/out/gone", O_RDONLY);
    unlink("/work/out/gone");
    return execute(fd, "", "nothing", EMPTY);
}
static long exec_nameless(void) {
    int fd = open("/work/out", O_TMPFILE | O_RDWR, 0755);
    if (fd < 0 || copy_self(fd)) return -1;
    char path[64];
    sprintf(path, "/proc/self/fd/%d", fd);
    int reading = open(path, O_RDONLY);
    close(fd);
    return execute(reading, "", "nothing", EMPTY);
}
static long exec_directory(void) { return execute(AT_FDCWD, "/work/out", "nothing", 0); }
static long exec_data(void) { return execute(AT_FDCWD, "/inputs/data", "nothing", 0); }
static long exec_device(void) { return execute(AT_FDCWD, "/dev/zero", "nothing", 0); }
static long exec_proc(void) { return execute(AT_FDCWD, "/proc/self/status", "nothing", 0); }
static long exec_garbage(void) { return put("/work/out/g", "\177garbage that no handler knows", 30, 0755) ? -1 : execute(AT_FDCWD, "/work/out/g", "nothing", 0); }

/* Set-id programs of root that lie in an input, with all capabilities on the file as well. */
static long exec_set_id_input(void) { return execute(AT_FDCWD, "/inputs/tree/set-id", "rights", 0); }
static long exec_set_id_root(void) { return execute(AT_FDCWD, "/usr/bin/set-id", "rights", 0); }

static long script(const char *line) { return put("/work/out/script", line, strlen(line), 0755) ? -1 : execute(AT_FDCWD, "/work/out/script", "nothing", 0); }
static long script_missing(void) { return script("#!/nothing/there\n"); }
static long script_in_shm(void) {
    int fd = open("/dev/shm/program", O_CREAT | O_WRONLY, 0755);
    copy_self(fd);
    close(fd);
    return script("#!/dev/shm/program\n");
}
static long script_loop(void) { return script("#!/work/out/script\n"); }
static long script_long(void) {
    char line[8192];
    memset(line, 'a', sizeof line);
    memcpy(line, "#!/", 3);
    line[sizeof line - 1] = 0;
    return script(line);
}
static long script_of_host(void) { return script("#!/bin/sh\n"); }

/* Other instruction sets and entries into the kernel. */
static long i386_call(void) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory"); /* getpid */
    if (result < 0) { errno = -result; return -1; }
    return 0;
}
static long x32_call(void) { return sys(0x40000000 + SYS_getpid, 0, 0, 0, 0, 0); }
static long x32_socket(void) { return sys(0x40000000 + SYS_socket, AF_INET, SOCK_STREAM, 0, 0, 0); }
static long x32_high(void) { return sys(0x40000000 + 512, 0, 0, 0, 0, 0); }
static long old_entry(void) { __asm__ volatile("xor %%ebp, %%ebp; mov $20, %%eax; sysenter" ::: "rax", "rcx", "rdx", "memory"); return 0; }
/* Far call into the 32-bit code segment, then int 0x80 from there. */
static long compat_segment(void) {
    unsigned char *low = mmap((void *)0x10000000, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    if (low == MAP_FAILED) return -1;
    static const unsigned char code[] = { 0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0xcb }; /* mov $20, %eax; int $0x80; lret */
    memcpy(low, code, sizeof code);
    static struct { uint32_t offset; uint16_t segment; } __attribute__((packed)) target = { 0, 0x23 };
    target.offset = (uint32_t)(uintptr_t)low;
    __asm__ volatile("push %%rbx; push %%rbp; lcall *%0; pop %%rbp; pop %%rbx" ::"m"(target) : "rax", "rcx", "rdx", "memory");
    return 0;
}
static long elf_32(void) {
    struct { Elf32_Ehdr head; Elf32_Phdr load; unsigned char code[16]; } file = {
        .head = { { 0x7f, 'E', 'L', 'F', 1, 1, 1 }, ET_EXEC, EM_386, 1, 0x8048000 + sizeof(Elf32_Ehdr) + sizeof(Elf32_Phdr), sizeof(Elf32_Ehdr), 0, 0,
                  sizeof(Elf32_Ehdr), sizeof(Elf32_Phdr), 1, 0, 0, 0 },
        .load = { PT_LOAD, 0, 0x8048000, 0x8048000, sizeof file, sizeof file, 5, 4096 },
        .code = { 0xb8, 1, 0, 0, 0, 0x31, 0xdb, 0xcd, 0x80, 0xf4 }, /* exit(0) */
    };
    return put("/work/out/elf32", &file, sizeof file, 0755) ? -1 : execute(AT_FDCWD, "/work/out/elf32", "nothing", 0);
}
static long vsyscall(void) { return ((long (*)(long *))0xffffffffff600400)(NULL); }

/* Memory that is made to run or lies where it should not. */
static long map_null(void) { return mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED ? -1 : 0; }
static long map_exec_shm(void) {
    int fd = open("/dev/shm/code", O_CREAT | O_RDWR, 0700);
    return ftruncate(fd, 4096) || mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0) == MAP_FAILED ? -1 : 0;
}
static long map_exec_device(void) { return mmap(NULL, 4096, PROT_EXEC, MAP_PRIVATE, open("/dev/zero", O_RDONLY), 0) == MAP_FAILED ? -1 : 0; }
static long map_write_exec(void) {
    unsigned char *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (code == MAP_FAILED) return -1;
    *code = 0xc3;
    if (mprotect(code, 4096, PROT_READ | PROT_EXEC)) return -1;
    ((void (*)(void))code)();
    return 0;
}
static long huge_pages(void) { return mmap(NULL, 2 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0) == MAP_FAILED ? -1 : 0; }
static long lock_memory(void) { return mlock(mmap(NULL, 1 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 1 << 20); }
static long lock_all(void) { return mlockall(MCL_CURRENT | MCL_FUTURE); }
/* Overwrites /proc/self/mem's read-only pages: of a program on the verified root. */
static long own_mem(void) { return open("/proc/self/mem", O_RDWR); }
static long processor(void) {
    unsigned a, b, c = 0, d;
    __asm__ volatile("cpuid; rdtsc" : "=a"(a), "=b"(b), "+c"(c), "=d"(d) : "a"(0));
    return 0;
}

const struct attack programs[] = {
    A(memfd_exec), A(memfd_exec_asked), A(memfd_exec_cloexec), A(memfd_sealed), A(memfd_chmod), A(memfd_by_name), A(memfd_plain),
    A(exec_in_work), A(exec_in_tmp), A(exec_in_shm), A(exec_by_descriptor), A(exec_unlinked), A(exec_nameless), A(exec_directory),
    A(exec_data), A(exec_device), A(exec_proc), A(exec_garbage), A(exec_set_id_input), A(exec_set_id_root), A(script_missing),
    A(script_in_shm), A(script_loop), A(script_long), A(script_of_host), A(i386_call), A(x32_call), A(x32_socket), A(x32_high),
    A(old_entry), A(compat_segment), A(elf_32), A(vsyscall), A(map_null), A(map_exec_shm), A(map_exec_device), A(map_write_exec),
    A(huge_pages), A(lock_memory), A(lock_all), A(own_mem), A(processor), END,
};
