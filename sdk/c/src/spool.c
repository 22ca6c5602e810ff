/* Writing and claiming spool files. */
#define _GNU_SOURCE
#include "spool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "files.h"
#include "spool_scan.h"

struct mon_spool *mon_spool_new(const char *folder, const char *emitter_id) {
    struct mon_spool *spool = calloc(1, sizeof *spool);
    if (spool == NULL) {
        return NULL;
    }
    pthread_mutex_init(&spool->lock, NULL);
    pthread_mutex_init(&spool->writing, NULL);
    spool->lock_fd = -1;
    for (size_t i = 0; i < MON_CLAIMS; i++) {
        spool->claim_fds[i] = -1;
    }
    spool->folder = strdup(folder);
    snprintf(spool->owner, sizeof spool->owner, "%s.%ld", emitter_id, (long)getpid());
    if (spool->folder == NULL) {
        mon_spool_free(spool);
        return NULL;
    }
    return spool;
}

const char *mon_spool_folder(const struct mon_spool *spool) {
    return spool->folder;
}

char *mon_spool_path(const struct mon_spool *spool, const char *name, const char *suffix) {
    char *path = NULL;
    return asprintf(&path, "%s/%s%s", spool->folder, name, suffix) < 0 ? NULL : path;
}

/* Holds the lock that tells others that this process lives, in a folder that exists. */
static int be_alive(struct mon_spool *spool) {
    char *path = mon_spool_path(spool, spool->owner, ".lock");
    if (path == NULL) {
        return ENOMEM;
    }
    int error = 0;
    pthread_mutex_lock(&spool->lock);
    if (spool->lock_fd >= 0 && !mon_is_at(spool->lock_fd, path)) {
        close(spool->lock_fd);
        spool->lock_fd = -1;
    }
    if (spool->lock_fd < 0) {
        error = mon_make_folder(spool->folder, false);
    }
    while (error == 0 && spool->lock_fd < 0) {
        int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
        if (fd < 0 || flock(fd, LOCK_EX) != 0) {
            error = errno;
            if (fd >= 0) {
                close(fd);
            }
        } else if (mon_is_at(fd, path)) {
            spool->lock_fd = fd;
        } else {
            close(fd);
        }
    }
    pthread_mutex_unlock(&spool->lock);
    free(path);
    return error;
}

static int write_file(struct mon_spool *spool, const char *name, const struct mon_buf *body) {
    int error = be_alive(spool);
    if (error != 0) {
        return error;
    }
    char *path = mon_spool_path(spool, name, "");
    char *temporary = mon_spool_path(spool, name, ".tmp");
    if (path == NULL || temporary == NULL) {
        error = ENOMEM;
    } else {
        pthread_mutex_lock(&spool->writing); /* the end may write what a slow thread is about to write, under the same name */
        error = mon_put_file(path, temporary, body->data, body->len);
        pthread_mutex_unlock(&spool->writing);
    }
    free(path);
    free(temporary);
    return error;
}

static int remember(struct mon_spool *spool, const char *name) {
    char *copy = strdup(name);
    pthread_mutex_lock(&spool->lock);
    char **own = copy == NULL ? NULL : realloc(spool->own, (spool->own_count + 1) * sizeof *own);
    if (own != NULL) {
        spool->own = own;
        size_t place = spool->own_count++;
        while (place > 0 && strcmp(own[place - 1], copy) > 0) { /* names sort in the order of emission */
            own[place] = own[place - 1];
            place--;
        }
        own[place] = copy;
    } else {
        free(copy);
    }
    pthread_mutex_unlock(&spool->lock);
    return own == NULL ? ENOMEM : 0;
}

void mon_spool_name(const struct mon_spool *spool, uint64_t first_seq, char name[MON_SPOOL_NAME]) {
    snprintf(name, MON_SPOOL_NAME, "%s.%020llu.jsonl", spool->owner, (unsigned long long)first_seq);
}

int mon_spool_write(struct mon_spool *spool, const struct mon_batch *batch) {
    char name[MON_SPOOL_NAME];
    mon_spool_name(spool, mon_batch_first_seq(batch), name);
    int error = write_file(spool, name, &batch->body);
    return error != 0 ? error : (remember(spool, name), 0);
}

int mon_spool_set_aside(struct mon_spool *spool, const char *name, const struct mon_buf *body) {
    char refused[MON_SPOOL_NAME + 40];
    snprintf(refused, sizeof refused, "%.150s.refused", name);
    return write_file(spool, refused, body);
}

int mon_spool_own(struct mon_spool *spool, struct mon_names *names) {
    int error = 0;
    pthread_mutex_lock(&spool->lock);
    for (size_t i = 0; i < spool->own_count && error == 0; i++) {
        error = mon_names_add(names, spool->own[i]);
    }
    pthread_mutex_unlock(&spool->lock);
    return error;
}

/* -------------------------------------------------------------------------------------------------------------------- claims */

static void note_fd(struct mon_spool *spool, int from, int to) {
    for (size_t i = 0; i < MON_CLAIMS; i++) {
        if (spool->claim_fds[i] == from) {
            spool->claim_fds[i] = to;
            return;
        }
    }
}

static void forget_name(struct mon_spool *spool, const char *name) {
    pthread_mutex_lock(&spool->lock);
    for (size_t i = 0; i < spool->own_count; i++) {
        if (strcmp(spool->own[i], name) == 0) {
            free(spool->own[i]);
            memmove(spool->own + i, spool->own + i + 1, (spool->own_count - i - 1) * sizeof *spool->own);
            spool->own_count--;
            break;
        }
    }
    pthread_mutex_unlock(&spool->lock);
}

static bool harmless(int error) {
    return error == ENOENT || error == EACCES || error == EPERM || error == EWOULDBLOCK || error == ELOOP;
}

int mon_spool_claim(struct mon_spool *spool, const char *name, struct mon_claim *claim) {
    *claim = (struct mon_claim){.spool = spool, .fd = -1};
    forget_name(spool, name);
    struct mon_spool_name parts;
    if (!mon_spool_parse_name(name, &parts)) {
        return ENOENT;
    }
    char *path = mon_spool_path(spool, name, "");
    char base[160];
    char suffix[40];
    snprintf(base, sizeof base, "%.*s", (int)parts.base_len, name);
    snprintf(suffix, sizeof suffix, ".claimed-%ld", (long)getpid());
    claim->base = mon_spool_path(spool, base, "");
    claim->claimed = mon_spool_path(spool, base, suffix);
    int error = path == NULL || claim->base == NULL || claim->claimed == NULL ? ENOMEM : 0;
    if (error == 0) {
        claim->fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        error = claim->fd < 0 ? errno : 0;
    }
    if (error == 0 && flock(claim->fd, LOCK_EX | LOCK_NB) != 0) {
        error = errno;
    }
    if (error == 0 && !mon_is_at(claim->fd, path)) {
        error = ENOENT;
    }
    if (error == 0 && rename(path, claim->claimed) != 0) {
        error = errno;
    }
    if (error == 0) {
        struct mon_buf data = {0};
        error = mon_read_all(claim->fd, &data);
        if (error == 0) {
            claim->batches = mon_batch_unpack(data.data, data.len);
        } else {
            (void)rename(claim->claimed, claim->base);
        }
        mon_buf_free(&data);
    }
    free(path);
    if (error != 0) {
        if (claim->fd >= 0) {
            close(claim->fd);
        }
        free(claim->base);
        free(claim->claimed);
        return harmless(error) ? ENOENT : error;
    }
    pthread_mutex_lock(&spool->lock);
    note_fd(spool, -1, claim->fd);
    pthread_mutex_unlock(&spool->lock);
    return 0;
}

static void free_claim(struct mon_claim *claim) {
    pthread_mutex_lock(&claim->spool->lock);
    note_fd(claim->spool, claim->fd, -1);
    pthread_mutex_unlock(&claim->spool->lock);
    close(claim->fd);
    free(claim->base);
    free(claim->claimed);
    while (claim->batches != NULL) {
        struct mon_batch *batch = claim->batches;
        claim->batches = batch->next;
        mon_batch_release(batch);
    }
}

void mon_claim_done(struct mon_claim *claim) {
    (void)unlink(claim->claimed);
    free_claim(claim);
}

void mon_claim_return(struct mon_claim *claim) {
    (void)rename(claim->claimed, claim->base);
    const char *name = mon_claim_name(claim);
    size_t owner = strlen(claim->spool->owner);
    if (strncmp(name, claim->spool->owner, owner) == 0 && name[owner] == '.') {
        (void)remember(claim->spool, name);
    }
    free_claim(claim);
}

void mon_claim_refuse(struct mon_claim *claim) {
    char *refused = NULL;
    if (asprintf(&refused, "%s.refused", claim->base) >= 0) {
        (void)rename(claim->claimed, refused);
        free(refused);
    }
    free_claim(claim);
}

const char *mon_claim_name(const struct mon_claim *claim) {
    return strrchr(claim->base, '/') + 1;
}

uint64_t mon_claim_number(const struct mon_claim *claim) {
    struct mon_spool_name parts;
    const char *name = mon_claim_name(claim);
    return mon_spool_parse_name(name, &parts) ? strtoull(name + parts.owner_len + 1, NULL, 10) : 0;
}

/* --------------------------------------------------------------------------------------------------------------------- the end */

void mon_spool_close(struct mon_spool *spool) {
    pthread_mutex_lock(&spool->lock);
    if (spool->lock_fd >= 0) {
        char *path = mon_spool_path(spool, spool->owner, ".lock");
        if (path != NULL) {
            (void)unlink(path);
            free(path);
        }
        close(spool->lock_fd);
        spool->lock_fd = -1;
    }
    pthread_mutex_unlock(&spool->lock);
}

void mon_spool_forget(struct mon_spool *spool) {
    if (spool->lock_fd >= 0) {
        close(spool->lock_fd);
        spool->lock_fd = -1;
    }
    for (size_t i = 0; i < MON_CLAIMS; i++) {
        if (spool->claim_fds[i] >= 0) {
            close(spool->claim_fds[i]);
            spool->claim_fds[i] = -1;
        }
    }
}

void mon_spool_free(struct mon_spool *spool) {
    for (size_t i = 0; i < spool->own_count; i++) {
        free(spool->own[i]);
    }
    free(spool->own);
    free(spool->folder);
    pthread_mutex_destroy(&spool->lock);
    pthread_mutex_destroy(&spool->writing);
    free(spool);
}
