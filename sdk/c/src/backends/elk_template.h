/* The index template that gives every field of an event its type: the one of sinks/elk_index.py, which a test holds it to. */
#ifndef MON_ELK_TEMPLATE_H
#define MON_ELK_TEMPLATE_H

#include "../buffer.h"

enum { MON_ELK_TEMPLATE_VERSION = 1 };

/* The name and the body of the template for an `index` setting, which may have %Y, %m, %d, %H, %G and %V in it. */
void mon_elk_template(const char *index, char *name, size_t room, struct mon_buf *body);

/* The version in the answer to GET _index_template; -1 when there is none. */
long mon_elk_template_version(const char *answer, size_t len);

#endif
