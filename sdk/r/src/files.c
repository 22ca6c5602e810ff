/* What base R can't do with files: flock, fsync, exclusive creation; clocks, random bytes, gzip's frame. */
#include "emitter.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static double seconds_of(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

double clock_now(void) { return seconds_of(CLOCK_REALTIME); }
double clock_monotonic(void) { return seconds_of(CLOCK_MONOTONIC); }

int64_t micros_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

bool random_bytes(unsigned char *data, size_t length)
{
    int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    size_t have = 0;
    while (have < length) {
        ssize_t got = read(fd, data + have, length - have);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        have += (size_t)got;
    }
    close(fd);
    return have == length;
}

void uuid_v7(char *to)
{
    char text[96];
    unsigned char random[10];
    if (!random_bytes(random, sizeof random))
        Rf_error("monitoring: can't read /dev/urandom");
    unsigned long long millis = (unsigned long long)(micros_now() / 1000);
    snprintf(text, sizeof text, "%08llx-%04llx-7%01x%02x-%c%01x%02x-%02x%02x%02x%02x%02x%02x", millis >> 16, millis & 0xFFFF,
             random[0] & 15, random[1], "89ab"[random[0] >> 6], random[2] & 15, random[3], random[4], random[5], random[6],
             random[7], random[8], random[9]);
    memcpy(to, text, UUID_LENGTH);
    to[UUID_LENGTH] = '\0';
}

SEXP mon_now(void) { return Rf_ScalarReal(clock_now()); }
SEXP mon_monotonic(void) { return Rf_ScalarReal(clock_monotonic()); }
SEXP mon_pid(void) { return Rf_ScalarInteger((int)getpid()); }

SEXP mon_random(SEXP count)
{
    SEXP data = PROTECT(Rf_allocVector(RAWSXP, Rf_asInteger(count)));
    if (!random_bytes(RAW(data), (size_t)XLENGTH(data)))
        Rf_error("monitoring: can't read /dev/urandom");
    UNPROTECT(1);
    return data;
}

SEXP mon_uuid(void)
{
    char text[UUID_LENGTH + 1];
    uuid_v7(text);
    return Rf_mkString(text);
}

/* Where each whole line of an NDJSON body ends, counted from 1, line feed included. */
SEXP mon_lines(SEXP body)
{
    const unsigned char *data = RAW(body);
    R_xlen_t length = XLENGTH(body), count = 0;
    for (R_xlen_t i = 0; i < length; i++)
        count += data[i] == '\n';
    SEXP ends = PROTECT(Rf_allocVector(REALSXP, count));
    double *to = REAL(ends);
    for (R_xlen_t i = 0; i < length; i++)
        if (data[i] == '\n')
            *to++ = (double)(i + 1);
    UNPROTECT(1);
    return ends;
}

/* gzip's frame (RFC 1952) around what zlib made of `body`: `stream` has a head of 2 bytes and a checksum of 4. */
SEXP mon_gzip(SEXP stream, SEXP body)
{
    static const unsigned char head[10] = {0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255};
    uint32_t crc = 0xFFFFFFFFu, length = (uint32_t)XLENGTH(body);
    for (R_xlen_t i = 0; i < XLENGTH(body); i++) {
        crc ^= RAW(body)[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ 0xEDB88320u : crc >> 1;
    }
    crc = ~crc;
    R_xlen_t inner = XLENGTH(stream) - 6;
    SEXP packed = PROTECT(Rf_allocVector(RAWSXP, 10 + inner + 8));
    unsigned char *to = RAW(packed);
    memcpy(to, head, 10);
    memcpy(to + 10, RAW(stream) + 2, (size_t)inner);
    for (int i = 0; i < 4; i++) {
        to[10 + inner + i] = (unsigned char)(crc >> (8 * i));
        to[14 + inner + i] = (unsigned char)(length >> (8 * i));
    }
    UNPROTECT(1);
    return packed;
}

static const char *path_of(SEXP path) { return Rf_translateChar(STRING_ELT(path, 0)); }

static bool is_at(int fd, const char *path)
{
    struct stat opened, named;
    return fstat(fd, &opened) == 0 && lstat(path, &named) == 0 && opened.st_ino == named.st_ino && opened.st_dev == named.st_dev;
}

/* A handle that holds the exclusive flock on the file of that name; -1: somebody else has it, -2: no such file, -3: any other trouble. */
SEXP mon_open_lock(SEXP path, SEXP create)
{
    const char *name = path_of(path);
    int flags = Rf_asLogical(create) ? O_RDWR | O_CREAT : O_RDONLY;
    for (int attempt = 0; attempt < 100; attempt++) {
        int fd = open(name, flags | O_NOFOLLOW | O_CLOEXEC, 0666);
        if (fd < 0)
            return Rf_ScalarInteger(errno == ENOENT ? -2 : -3);
        if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
            int why = errno;
            close(fd);
            return Rf_ScalarInteger(why == EWOULDBLOCK ? -1 : -3);
        }
        if (is_at(fd, name))
            return Rf_ScalarInteger(fd);
        close(fd);
        if (!Rf_asLogical(create))
            return Rf_ScalarInteger(-2);
    }
    return Rf_ScalarInteger(-3);
}

SEXP mon_is_at(SEXP fd, SEXP path) { return Rf_ScalarLogical(is_at(Rf_asInteger(fd), path_of(path))); }

SEXP mon_close(SEXP fd)
{
    close(Rf_asInteger(fd));
    return R_NilValue;
}

static int write_all(int fd, const unsigned char *data, size_t length)
{
    while (length > 0) {
        ssize_t written = write(fd, data, length);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return errno;
        data += written;
        length -= (size_t)written;
    }
    return fsync(fd) == 0 ? 0 : errno;
}

static int sync_folder_of(const char *path)
{
    char folder[4096];
    const char *slash = strrchr(path, '/');
    size_t length = slash == NULL ? 1 : slash == path ? 1 : (size_t)(slash - path);
    if (length >= sizeof folder)
        return ENAMETOOLONG;
    memcpy(folder, slash == NULL ? "." : path, length);
    folder[length] = '\0';
    int fd = open(folder, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    int trouble = fsync(fd) == 0 ? 0 : errno;
    close(fd);
    return trouble;
}

static SEXP outcome(int trouble) { return Rf_mkString(trouble == 0 ? "" : strerror(trouble)); }

/* Write aside, sync, rename, sync the folder. Empty text, or what went wrong. */
SEXP mon_write_file(SEXP path, SEXP temporary, SEXP data)
{
    const char *name = path_of(path), *aside = path_of(temporary);
    unlink(aside);
    int fd = open(aside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd < 0)
        return outcome(errno);
    int trouble = write_all(fd, RAW(data), (size_t)XLENGTH(data));
    if (close(fd) != 0 && trouble == 0)
        trouble = errno;
    if (trouble == 0 && rename(aside, name) != 0)
        trouble = errno;
    if (trouble != 0) {
        unlink(aside);
        return outcome(trouble);
    }
    return outcome(sync_folder_of(name));
}

/* Cut the file to `size` bytes, append and sync. */
SEXP mon_append_file(SEXP path, SEXP size, SEXP data)
{
    const char *name = path_of(path);
    int fd = open(name, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd < 0)
        return outcome(errno);
    off_t start = (off_t)Rf_asReal(size);
    int trouble = ftruncate(fd, start) == 0 && lseek(fd, start, SEEK_SET) >= 0 ? 0 : errno;
    if (trouble == 0)
        trouble = write_all(fd, RAW(data), (size_t)XLENGTH(data));
    if (close(fd) != 0 && trouble == 0)
        trouble = errno;
    return outcome(trouble);
}

/* Sync the folder that holds `path`. */
SEXP mon_sync_folder(SEXP path) { return outcome(sync_folder_of(path_of(path))); }

/* rename(2), which replaces: whether it was done, without R's warnings. */
SEXP mon_rename(SEXP from, SEXP to) { return Rf_ScalarLogical(rename(path_of(from), path_of(to)) == 0); }

/* Whether a process of that id exists, be it another user's. */
SEXP mon_is_alive(SEXP pid) { return Rf_ScalarLogical(kill((pid_t)Rf_asInteger(pid), 0) == 0 || errno == EPERM); }
