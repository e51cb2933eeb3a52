/* Preloaded into a process: the n-th call that changes or opens something below a directory fails, or ends the process.
 *
 * strace counts calls for each thread alone and cannot tell a directory's files from others; this counts them together.
 * The variables: SYSCALLS_ROOT the directory, SYSCALLS_POINT n (from 1), SYSCALLS_FAULT an errno or "kill",
 * SYSCALLS_LASTING whether later calls fail as well, SYSCALLS_MET a file that is made when the n-th call comes.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long met;

static int below_root(int dirfd, const char *path) {
    const char *root = getenv("SYSCALLS_ROOT");
    char link[64], place[PATH_MAX];
    if (root == NULL) return 0;
    if (path == NULL || (path[0] != '/' && dirfd != AT_FDCWD)) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", dirfd);
        long length = syscall(SYS_readlink, link, place, sizeof place - 1);
        if (length < 0) return 0;
        place[length] = 0;
        path = place;
    }
    size_t length = strlen(root);
    return strncmp(path, root, length) == 0 && (path[length] == 0 || path[length] == '/');
}

/* The errno that this call is to fail with; 0 if it is to be made; -1 if the process is to end. */
static int fault(int dirfd, const char *path) {
    int before = errno;
    if (!below_root(dirfd, path)) {
        errno = before;
        return 0;
    }
    long point = atol(getenv("SYSCALLS_POINT")), number = atomic_fetch_add(&met, 1) + 1;
    errno = before;
    if (number < point || (number > point && getenv("SYSCALLS_LASTING") == NULL)) return 0;
    if (number == point)
        syscall(SYS_close, syscall(SYS_openat, AT_FDCWD, getenv("SYSCALLS_MET"), O_CREAT | O_WRONLY, 0600));
    errno = before;
    const char *kind = getenv("SYSCALLS_FAULT");
    return strcmp(kind, "kill") == 0 ? -1 : atoi(kind);
}

static void end(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define MEET(dirfd, path, failed)                  \
    do {                                           \
        int meets = fault(dirfd, path);            \
        if (meets < 0) end();                      \
        if (meets > 0) return errno = meets, failed; \
    } while (0)

/* What is killed or fails while it writes has written a half. */
#define MEET_WRITING(fd, half)                     \
    do {                                           \
        int meets = fault(fd, NULL);               \
        if (meets != 0) half;                      \
        if (meets < 0) end();                      \
        if (meets > 0) return errno = meets, -1;   \
    } while (0)

ssize_t write(int fd, const void *data, size_t size) {
    MEET_WRITING(fd, REAL(write)(fd, data, size / 2));
    return REAL(write)(fd, data, size);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    MEET_WRITING(fd, REAL(write)(fd, parts[0].iov_base, parts[0].iov_len / 2));
    return REAL(writev)(fd, parts, count);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    MEET_WRITING(fd, REAL(pwrite64)(fd, data, size / 2, at));
    return REAL(pwrite64)(fd, data, size, at);
}

int fsync(int fd) {
    MEET(fd, NULL, -1);
    return REAL(fsync)(fd);
}

int fdatasync(int fd) {
    MEET(fd, NULL, -1);
    return REAL(fdatasync)(fd);
}

int ftruncate64(int fd, off64_t size) {
    MEET(fd, NULL, -1);
    return REAL(ftruncate64)(fd, size);
}

#define OPEN(dirfd, path, call)                    \
    mode_t mode = 0;                               \
    if ((flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE) {          \
        va_list more;                              \
        va_start(more, flags);                     \
        mode = va_arg(more, mode_t);               \
        va_end(more);                              \
    }                                              \
    MEET(dirfd, path, -1);                         \
    return call

int open(const char *path, int flags, ...) { OPEN(AT_FDCWD, path, REAL(open)(path, flags, mode)); }
int open64(const char *path, int flags, ...) { OPEN(AT_FDCWD, path, REAL(open64)(path, flags, mode)); }
int openat(int fd, const char *path, int flags, ...) { OPEN(fd, path, REAL(openat)(fd, path, flags, mode)); }
int openat64(int fd, const char *path, int flags, ...) { OPEN(fd, path, REAL(openat64)(fd, path, flags, mode)); }

DIR *opendir(const char *path) {
    MEET(AT_FDCWD, path, NULL);
    return REAL(opendir)(path);
}

DIR *fdopendir(int fd) {
    MEET(fd, NULL, NULL);
    return REAL(fdopendir)(fd);
}

int linkat(int from_fd, const char *from, int to_fd, const char *to, int flags) {
    MEET(to_fd, to, -1);
    return REAL(linkat)(from_fd, from, to_fd, to, flags);
}

int rename(const char *from, const char *to) {
    MEET(AT_FDCWD, to, -1);
    return REAL(rename)(from, to);
}

int unlink(const char *path) {
    MEET(AT_FDCWD, path, -1);
    return REAL(unlink)(path);
}

int unlinkat(int fd, const char *path, int flags) {
    MEET(fd, path, -1);
    return REAL(unlinkat)(fd, path, flags);
}

int mkdir(const char *path, mode_t mode) {
    MEET(AT_FDCWD, path, -1);
    return REAL(mkdir)(path, mode);
}

int mkdirat(int fd, const char *path, mode_t mode) {
    MEET(fd, path, -1);
    return REAL(mkdirat)(fd, path, mode);
}
