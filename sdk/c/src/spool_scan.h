/* What the writing and the looking-around half of the spool share. */
#ifndef MON_SPOOL_SCAN_H
#define MON_SPOOL_SCAN_H

#include "spool.h"

enum { MON_CLAIMS = 4 };

struct mon_spool {
    char *folder;
    char owner[64]; /* <emitter id>.<pid> */
    pthread_mutex_t writing; /* held for each file */
    pthread_mutex_t lock; /* of what follows */
    char **own; /* names of the files that this process wrote, in order */
    size_t own_count;
    int lock_fd;
    int claim_fds[MON_CLAIMS];
};

/* `folder/name` with a suffix, to be freed; NULL without memory. */
char *mon_spool_path(const struct mon_spool *spool, const char *name, const char *suffix);

int mon_names_add(struct mon_names *names, const char *name);

#endif
