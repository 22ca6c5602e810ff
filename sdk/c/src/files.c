/* Files, whole or not at all. */
#define _GNU_SOURCE
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int mon_write_all(int fd, const char *data, size_t len) {
    while (len > 0) {
        ssize_t wrote = write(fd, data, len);
        if (wrote < 0 && errno == EINTR) {
            continue;
        }
        if (wrote <= 0) {
            return wrote < 0 ? errno : EIO;
        }
        data += wrote;
        len -= (size_t)wrote;
    }
    return 0;
}

int mon_read_all(int fd, struct mon_buf *data) {
    for (;;) {
        if (!mon_buf_room(data, 64 * 1024)) {
            return ENOMEM;
        }
        ssize_t got = read(fd, data->data + data->len, data->cap - data->len);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return got < 0 ? errno : 0;
        }
        data->len += (size_t)got;
    }
}

int mon_sync_folder(const char *folder) {
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return errno;
    }
    int error = fsync(fd) == 0 ? 0 : errno;
    close(fd);
    return error;
}

int mon_sync_folder_of(const char *path) {
    const char *slash = strrchr(path, '/');
    char *folder = slash == NULL ? strdup(".") : strndup(path, slash == path ? 1 : (size_t)(slash - path));
    int error = folder == NULL ? ENOMEM : mon_sync_folder(folder);
    free(folder);
    return error;
}

int mon_make_folder(const char *folder, bool durable) {
    char *path = strdup(folder);
    int error = path == NULL ? ENOMEM : 0;
    for (size_t at = folder[0] == '/' ? 1 : 0; error == 0; at++) {
        char byte = path[at];
        if (byte != '/' && byte != '\0') {
            continue;
        }
        path[at] = '\0';
        if (mkdir(path, 0777) == 0) {
            error = durable ? mon_sync_folder_of(path) : 0;
        } else if (errno != EEXIST) {
            error = errno;
        }
        path[at] = byte;
        if (byte == '\0') {
            break;
        }
    }
    free(path);
    return error;
}

int mon_put_file(const char *path, const char *temporary, const char *data, size_t len) {
    (void)unlink(temporary); /* what is there was left by somebody who died */
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd < 0) {
        return errno;
    }
    int error = mon_write_all(fd, data, len);
    if (error == 0 && fsync(fd) != 0) {
        error = errno;
    }
    if (close(fd) != 0 && error == 0) {
        error = errno;
    }
    if (error == 0 && rename(temporary, path) != 0) {
        error = errno;
    }
    if (error != 0) {
        (void)unlink(temporary);
        return error;
    }
    return mon_sync_folder_of(path);
}

bool mon_is_at(int fd, const char *path) {
    struct stat named;
    struct stat opened;
    return lstat(path, &named) == 0 && fstat(fd, &opened) == 0 && named.st_ino == opened.st_ino && named.st_dev == opened.st_dev;
}
