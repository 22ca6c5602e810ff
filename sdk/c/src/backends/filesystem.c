/* JSON Lines files in `date=…/hour=…` folders (UTC, by the event's timestamp), rotated by size and age.
 *
 *     date=2026-07-01/hour=09/<emitter id>-<first seq>.jsonl.open           grows; its owner holds an exclusive flock on it
 *     date=2026-07-01/hour=09/<emitter id>-<first seq>-<last seq>.jsonl     complete, never touched again
 *
 * A batch is appended and synced before it counts as delivered; what could not be appended whole is cut off again. A batch that
 * comes from the spool is a file of its own, whose name is made of what is inside: it overwrites itself. Growing files that a dead
 * process left are cut after their last whole line and completed; those of programs in other languages only if nothing in `.state`
 * says that somebody else does it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../backend.h"
#include "../files.h"
#include "../ids.h"
#include "../json.h"
#include "../partition.h"

enum { GROWING = 16 };

struct growing {
    int fd; /* -1: free */
    char folder[MON_PARTITION];
    char *path;
    char emitter[40];
    uint64_t first_seq;
    uint64_t last_seq;
    off_t size;
    double since;
};

struct filesystem {
    char *path;
    off_t rotate_size;
    double rotate_seconds;
    bool recovered; /* what dead processes left is completed */
    struct growing files[GROWING];
};

static void *open_filesystem(const struct mon_settings *settings, const struct mon_backend_settings *backend) {
    struct filesystem *filesystem = calloc(1, sizeof *filesystem);
    (void)settings;
    if (filesystem == NULL) {
        return NULL;
    }
    filesystem->path = strdup(mon_option_text(backend, "path"));
    double size = mon_option_number(backend, "rotate_size_mb", 100) * 1024 * 1024;
    filesystem->rotate_size = size < 1e15 ? (off_t)size : (off_t)1000000000000000;
    filesystem->rotate_seconds = mon_option_number(backend, "rotate_seconds", 60);
    for (size_t i = 0; i < GROWING; i++) {
        filesystem->files[i].fd = -1;
    }
    if (filesystem->path == NULL) {
        free(filesystem);
        return NULL;
    }
    return filesystem;
}

static int make_folder_of(const struct filesystem *filesystem, const struct mon_hour *hour) {
    char *folder = NULL;
    if (asprintf(&folder, "%s/%s", filesystem->path, hour->folder) < 0) {
        return ENOMEM;
    }
    int error = mon_make_folder(folder, true);
    free(folder);
    return error;
}

/* Gives a growing file its last name. */
static int complete(const char *path, uint64_t last_seq) {
    char *final = NULL;
    size_t stem = strlen(path) - strlen(".jsonl.open");
    if (asprintf(&final, "%.*s-%020llu.jsonl", (int)stem, path, (unsigned long long)last_seq) < 0) {
        return ENOMEM;
    }
    int error = rename(path, final) != 0 ? errno : mon_sync_folder_of(final);
    free(final);
    return error;
}

static void rotate(struct growing *file) {
    (void)complete(file->path, file->last_seq);
    close(file->fd);
    free(file->path);
    *file = (struct growing){.fd = -1};
}

static void rotate_old(struct filesystem *filesystem, bool everything) {
    double now = mon_monotonic();
    for (size_t i = 0; i < GROWING; i++) {
        struct growing *file = &filesystem->files[i];
        if (file->fd >= 0 && (everything || file->size >= filesystem->rotate_size || now - file->since >= filesystem->rotate_seconds)) {
            rotate(file);
        }
    }
}

/* The number of the event in the last whole line, with what follows that line cut off; 0 when there is none. */
static uint64_t cut_torn(int fd) {
    struct stat status;
    struct mon_buf text = {0};
    uint64_t seq = 0;
    enum { TAIL = 300 * 1024 };
    if (fstat(fd, &status) != 0 || !mon_buf_room(&text, TAIL)) {
        mon_buf_free(&text);
        return 0;
    }
    off_t start = status.st_size > TAIL ? status.st_size - TAIL : 0;
    ssize_t got = pread(fd, text.data, TAIL, start);
    const char *end = got > 0 ? memrchr(text.data, '\n', (size_t)got) : NULL;
    if (end != NULL) {
        const char *before = memrchr(text.data, '\n', (size_t)(end - text.data));
        const char *line = before == NULL ? text.data : before + 1;
        struct mon_json_document document;
        if (mon_json_parse(&document, line, (size_t)(end - line))) {
            const struct mon_json *number = mon_json_get(mon_json_get(document.root, "emitter"), "seq");
            seq = number != NULL && number->type == MON_JSON_INTEGER ? strtoull(number->text, NULL, 10) : 0;
        }
        mon_json_free(&document);
        if (ftruncate(fd, start + (end - text.data) + 1) != 0) {
            seq = 0;
        }
    }
    mon_buf_free(&text);
    return seq;
}

/* Whether a growing file is of a program that locks no growing file: with a `.state/<log>.json` that says how much of it counts, which
 * all that write by such states complete, or of a living one with a `.state/<log>.owner` that is locked. */
static bool is_kept_elsewhere(const char *root, const char *growing) {
    enum { BEHIND = sizeof "-00000000000000000000.jsonl.open" - 1 };
    const char *name = strrchr(growing, '/') + 1;
    size_t len = strlen(name);
    int log = len > BEHIND ? (int)(len - BEHIND) : 0;
    char *path = NULL;
    if (asprintf(&path, "%s/.state/%.*s.json", root, log, name) < 0) {
        return true;
    }
    bool kept = access(path, F_OK) == 0;
    free(path);
    if (kept || asprintf(&path, "%s/.state/%.*s.owner", root, log, name) < 0) {
        return true;
    }
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    kept = fd >= 0 ? fcntl(fd, F_GETLK, &lock) != 0 || lock.l_type != F_UNLCK : errno != ENOENT;
    if (fd >= 0) {
        close(fd);
    }
    free(path);
    return kept;
}

static void recover(struct filesystem *filesystem) {
    char *pattern = NULL;
    glob_t found = {0};
    if (asprintf(&pattern, "%s/date=*/hour=*/*.jsonl.open", filesystem->path) >= 0 && glob(pattern, GLOB_NOSORT, NULL, &found) == 0) {
        for (size_t i = 0; i < found.gl_pathc; i++) {
            int fd = is_kept_elsewhere(filesystem->path, found.gl_pathv[i]) ? -1 : open(found.gl_pathv[i], O_RDWR | O_NOFOLLOW | O_CLOEXEC);
            if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0) {
                uint64_t last = cut_torn(fd);
                if (last > 0) {
                    (void)complete(found.gl_pathv[i], last);
                }
            }
            if (fd >= 0) {
                close(fd);
            }
        }
    }
    globfree(&found);
    free(pattern);
    filesystem->recovered = true;
}

static int begin(struct filesystem *filesystem, struct growing *file, const struct mon_batch *batch, const struct mon_hour *hour) {
    char *path = NULL;
    if (asprintf(&path, "%s/%s/%s-%020llu.jsonl.open", filesystem->path, hour->folder, batch->emitter_id, (unsigned long long)hour->first_seq) < 0) {
        return ENOMEM;
    }
    int error = make_folder_of(filesystem, hour);
    int fd = error == 0 ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0666) : -1;
    if (error == 0 && (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) != 0)) {
        error = errno;
    }
    if (error == 0) {
        error = mon_sync_folder_of(path);
    }
    if (error != 0) {
        if (fd >= 0) {
            close(fd);
        }
        free(path);
        return error;
    }
    *file = (struct growing){.fd = fd, .path = path, .first_seq = hour->first_seq, .since = mon_monotonic()};
    memcpy(file->folder, hour->folder, sizeof file->folder);
    return 0;
}

/* The growing file of an hour. */
static int file_of(struct filesystem *filesystem, const struct mon_batch *batch, const struct mon_hour *hour, struct growing **found) {
    struct growing *free_place = NULL;
    struct growing *oldest = NULL;
    for (size_t i = 0; i < GROWING; i++) {
        struct growing *file = &filesystem->files[i];
        if (file->fd < 0) {
            free_place = file;
        } else if (strcmp(file->folder, hour->folder) == 0) {
            *found = file;
            return 0;
        } else if (oldest == NULL || file->since < oldest->since) {
            oldest = file;
        }
    }
    if (free_place == NULL) {
        rotate(oldest);
        free_place = oldest;
    }
    *found = free_place;
    return begin(filesystem, free_place, batch, hour);
}

static int append(struct filesystem *filesystem, const struct mon_batch *batch, const struct mon_hour *hour) {
    struct growing *file;
    int error = file_of(filesystem, batch, hour, &file);
    if (error != 0) {
        return error;
    }
    if (!mon_is_at(file->fd, file->path)) {
        close(file->fd); /* somebody took it away: what was in it is theirs, and a new one begins */
        free(file->path);
        *file = (struct growing){.fd = -1};
        error = begin(filesystem, file, batch, hour);
        if (error != 0) {
            return error;
        }
    }
    error = mon_write_all(file->fd, hour->lines.data, hour->lines.len);
    if (error == 0 && fdatasync(file->fd) != 0) {
        error = errno;
    }
    if (error != 0) {
        if (ftruncate(file->fd, file->size) != 0) {
            rotate(file);
        }
        return error;
    }
    file->size += (off_t)hour->lines.len;
    file->last_seq = hour->last_seq > file->last_seq ? hour->last_seq : file->last_seq;
    return 0;
}

/* A file of its own, written aside and renamed. */
static int write_whole(const struct filesystem *filesystem, const struct mon_batch *batch, const struct mon_hour *hour) {
    char name[160];
    char *path = NULL;
    char *aside = NULL;
    mon_hour_name(batch, hour, "", name);
    int error = ENOMEM;
    if (asprintf(&path, "%s/%s/%s.jsonl", filesystem->path, hour->folder, name) >= 0 && asprintf(&aside, "%s.tmp-%ld", path, (long)getpid()) >= 0) {
        error = make_folder_of(filesystem, hour);
        error = error != 0 ? error : mon_put_file(path, aside, hour->lines.data, hour->lines.len);
    }
    free(path);
    free(aside);
    return error;
}

static void send_to_filesystem(void *self, const struct mon_batch *batch, double timeout, struct mon_answer *answer) {
    struct filesystem *filesystem = self;
    (void)timeout;
    if (!filesystem->recovered) {
        recover(filesystem);
    }
    struct mon_hours hours;
    int error = mon_hours_of(batch, &hours) ? 0 : ENOMEM;
    for (size_t i = 0; error == 0 && i < hours.count; i++) {
        error = batch->replayed ? write_whole(filesystem, batch, &hours.list[i]) : append(filesystem, batch, &hours.list[i]);
    }
    mon_hours_free(&hours);
    if (error != 0) {
        mon_answer_set(answer, MON_RETRY, "can't write to %s: %s; check space, rights and the path", filesystem->path, strerror(error));
    } else {
        rotate_old(filesystem, false);
        mon_answer_set(answer, MON_ACCEPTED, "written");
    }
}

static void close_filesystem(void *self) {
    struct filesystem *filesystem = self;
    rotate_old(filesystem, true);
    free(filesystem->path);
    free(filesystem);
}

static void forget_filesystem(void *self) {
    struct filesystem *filesystem = self;
    for (size_t i = 0; i < GROWING; i++) {
        if (filesystem->files[i].fd >= 0) {
            close(filesystem->files[i].fd);
            filesystem->files[i].fd = -1;
        }
    }
}

static void tick_filesystem(void *self) {
    rotate_old(self, false);
}

const struct mon_backend_type mon_backend_filesystem = {
    "filesystem", open_filesystem, send_to_filesystem, NULL, close_filesystem, forget_filesystem, tick_filesystem, false,
};
