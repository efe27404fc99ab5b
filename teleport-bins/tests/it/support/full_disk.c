/* A full disk for a program that is not told otherwise: while $FULL_DISK/.full exists, no file below $FULL_DISK is written. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static int is_full(int fd) {
    char flag[PATH_MAX], link[64], path[PATH_MAX];
    const char *disk = getenv("FULL_DISK");
    struct stat file;
    int before = errno, full = 0;
    if (disk && snprintf(flag, sizeof flag, "%s/.full", disk) < (int)sizeof flag && access(flag, F_OK) == 0) {
        ssize_t length;
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        length = readlink(link, path, sizeof path - 1);
        full = length > (ssize_t)strlen(disk) && strncmp(path, disk, strlen(disk)) == 0
            && fstat(fd, &file) == 0 && S_ISREG(file.st_mode);
    }
    errno = full ? ENOSPC : before;
    return full;
}

/* The function of this name behind ours. */
#define REAL(result, name, ...) \
    static result (*real)(__VA_ARGS__); \
    if (!real) \
        real = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

ssize_t write(int fd, const void *bytes, size_t length) {
    REAL(ssize_t, "write", int, const void *, size_t);
    return is_full(fd) ? -1 : real(fd, bytes, length);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    return is_full(fd) ? -1 : real(fd, parts, count);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    return is_full(fd) ? -1 : real(fd, bytes, length, offset);
}

int ftruncate64(int fd, off64_t length) {
    struct stat file;
    REAL(int, "ftruncate64", int, off64_t);
    /* Cutting a file off needs no room. */
    return fstat(fd, &file) == 0 && length > file.st_size && is_full(fd) ? -1 : real(fd, length);
}

ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *there, size_t length, unsigned flags) {
    REAL(ssize_t, "copy_file_range", int, off64_t *, int, off64_t *, size_t, unsigned);
    return is_full(to) ? -1 : real(from, at, to, there, length, flags);
}

ssize_t sendfile64(int to, int from, off64_t *at, size_t length) {
    REAL(ssize_t, "sendfile64", int, int, off64_t *, size_t);
    return is_full(to) ? -1 : real(to, from, at, length);
}
