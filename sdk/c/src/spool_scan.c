/* Looking for what dead processes left in the spool folder. */
#define _GNU_SOURCE
#include "spool_scan.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

static const double OLD_CLAIM = 3600; /* seconds after which a claim whose flock is free is stale, whatever its process id says */

int mon_names_add(struct mon_names *names, const char *name) {
    char *copy = strdup(name);
    char **list = copy == NULL ? NULL : realloc(names->list, (names->count + 1) * sizeof *list);
    if (list == NULL) {
        free(copy);
        return ENOMEM;
    }
    names->list = list;
    list[names->count++] = copy;
    return 0;
}

void mon_names_free(struct mon_names *names) {
    for (size_t i = 0; i < names->count; i++) {
        free(names->list[i]);
    }
    free(names->list);
    *names = (struct mon_names){0};
}

bool mon_spool_parse_name(const char *name, struct mon_spool_name *parts) {
    *parts = (struct mon_spool_name){0};
    size_t len = strlen(name);
    size_t at = MON_ID_SIZE - 1;
    if (len > 150 || len < at || !mon_is_uuid(name, at) || name[at] != '.') {
        return false;
    }
    size_t digits = strspn(name + at + 1, "0123456789");
    at += 1 + digits;
    parts->owner_len = at;
    if (digits == 0 || digits > 18 || name[at] != '.' || strspn(name + at + 1, "0123456789") != 20) {
        return false;
    }
    at += 21;
    if (strncmp(name + at, ".jsonl", 6) != 0) {
        return false;
    }
    at += 6;
    parts->base_len = at;
    const char *rest = name + at;
    if (*rest == '\0') {
        return true;
    }
    if (strcmp(rest, ".tmp") == 0) {
        parts->torn = true;
        return true;
    }
    if (strncmp(rest, ".claimed-", 9) != 0) {
        return false;
    }
    digits = strspn(rest + 9, "0123456789");
    parts->claimer = strtol(rest + 9, NULL, 10);
    return digits > 0 && digits <= 18 && rest[9 + digits] == '\0' && parts->claimer > 0;
}

static bool is_dead(const struct mon_spool *spool, const char *owner) {
    char *path = mon_spool_path(spool, owner, ".lock");
    if (path == NULL) {
        return false;
    }
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    bool dead = fd < 0 && errno == ENOENT; /* another user's, which can't be opened, is not ours to take over */
    free(path);
    if (fd >= 0) {
        dead = flock(fd, LOCK_EX | LOCK_NB) == 0;
        close(fd);
    }
    return dead;
}

static bool may_be_stale(long claimer, time_t changed) {
    if (claimer == (long)getpid() || difftime(time(NULL), changed) > OLD_CLAIM) {
        return true;
    }
    return kill((pid_t)claimer, 0) != 0 && errno == ESRCH;
}

struct found {
    struct timespec modified;
    char *name;
};

struct owner {
    char name[64];
    bool dead;
};

struct scan {
    const struct mon_spool *spool;
    struct found *list;
    size_t count;
    struct owner *owners; /* whose files were seen */
    size_t owner_count;
    struct mon_names locks;
};

static bool knows_dead(struct scan *scan, const char *owner) {
    for (size_t i = 0; i < scan->owner_count; i++) {
        if (strcmp(scan->owners[i].name, owner) == 0) {
            return scan->owners[i].dead;
        }
    }
    struct owner *owners = realloc(scan->owners, (scan->owner_count + 1) * sizeof *owners);
    if (owners == NULL) {
        return false;
    }
    scan->owners = owners;
    struct owner *added = &owners[scan->owner_count++];
    snprintf(added->name, sizeof added->name, "%s", owner);
    added->dead = strcmp(owner, scan->spool->owner) != 0 && is_dead(scan->spool, owner);
    return added->dead;
}

static void look_at(struct scan *scan, const char *name) {
    struct mon_spool_name parts;
    if (!mon_spool_parse_name(name, &parts)) {
        size_t len = strlen(name);
        if (len > 5 && len < 69 && strcmp(name + len - 5, ".lock") == 0) {
            (void)mon_names_add(&scan->locks, name);
        }
        return;
    }
    char owner[64];
    snprintf(owner, sizeof owner, "%.*s", (int)parts.owner_len, name);
    bool dead = knows_dead(scan, owner);
    char *path = mon_spool_path(scan->spool, name, "");
    struct stat status;
    bool regular = path != NULL && lstat(path, &status) == 0 && S_ISREG(status.st_mode);
    free(path);
    if (!regular) {
        return;
    }
    bool ours = strcmp(owner, scan->spool->owner) == 0;
    if (parts.claimer > 0 ? !ours && !may_be_stale(parts.claimer, status.st_ctime) : !dead) {
        return;
    }
    struct found *list = realloc(scan->list, (scan->count + 1) * sizeof *list);
    char *copy = strdup(name);
    if (list != NULL) {
        scan->list = list;
    }
    if (list == NULL || copy == NULL) {
        free(copy);
        return;
    }
    list[scan->count++] = (struct found){status.st_mtim, copy};
}

static int by_age(const void *one, const void *other) {
    const struct found *a = one;
    const struct found *b = other;
    if (a->modified.tv_sec != b->modified.tv_sec) {
        return a->modified.tv_sec < b->modified.tv_sec ? -1 : 1;
    }
    if (a->modified.tv_nsec != b->modified.tv_nsec) {
        return a->modified.tv_nsec < b->modified.tv_nsec ? -1 : 1;
    }
    return strcmp(a->name, b->name);
}

/* Removes the locks of dead owners that left nothing, so that they don't pile up. */
static void tidy(struct scan *scan) {
    for (size_t i = 0; i < scan->locks.count; i++) {
        char owner[80];
        snprintf(owner, sizeof owner, "%.*s", (int)(strlen(scan->locks.list[i]) - 5), scan->locks.list[i]);
        char probe[160];
        struct mon_spool_name parts;
        snprintf(probe, sizeof probe, "%s.%020d.jsonl", owner, 0);
        bool left = strcmp(owner, scan->spool->owner) == 0 || !mon_spool_parse_name(probe, &parts);
        for (size_t j = 0; j < scan->owner_count && !left; j++) {
            left = strcmp(scan->owners[j].name, owner) == 0;
        }
        if (!left && is_dead(scan->spool, owner)) {
            char *path = mon_spool_path(scan->spool, scan->locks.list[i], "");
            if (path != NULL) {
                (void)unlink(path);
                free(path);
            }
        }
    }
}

int mon_spool_orphans(struct mon_spool *spool, struct mon_names *names) {
    DIR *folder = opendir(spool->folder);
    if (folder == NULL) {
        return errno == ENOENT ? 0 : errno;
    }
    struct scan scan = {.spool = spool};
    const struct dirent *entry;
    while ((entry = readdir(folder)) != NULL) {
        look_at(&scan, entry->d_name);
    }
    closedir(folder);
    tidy(&scan);
    if (scan.count > 1) {
        qsort(scan.list, scan.count, sizeof *scan.list, by_age);
    }
    int error = 0;
    for (size_t i = 0; i < scan.count; i++) {
        if (error == 0) {
            error = mon_names_add(names, scan.list[i].name);
        }
        free(scan.list[i].name);
    }
    free(scan.list);
    free(scan.owners);
    mon_names_free(&scan.locks);
    return error;
}
