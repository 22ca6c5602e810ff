/* The harness of the C SDK: reads commands on standard input, answers on standard output. */
#include <stdio.h>
#include <stdlib.h>

#include "commands.h"
#include "monitoring.h"

int main(void) {
    printf("{\"harness\":1,\"language\":\"c\",\"version\":\"" MON_VERSION
           "\",\"capabilities\":[\"sidecar\",\"direct\",\"threads\",\"fork\",\"background\",\"int64\",\"bytes\",\"nan\",\"backend:sidecar\","
           "\"backend:filesystem\",\"backend:s3\",\"backend:elk\",\"backend:webhook\",\"backend:zabbix\"]}\n");
    fflush(stdout);
    char *line = NULL;
    size_t room = 0;
    ssize_t len;
    while ((len = getline(&line, &room, stdin)) > 0) {
        struct mon_json_document document;
        struct mon_buf answer = {0};
        if (mon_json_parse(&document, line, (size_t)len)) {
            (void)harness_command(&answer, document.root);
        } else {
            mon_buf_format(&answer, "{\"ok\":false,\"error\":{\"kind\":\"other\",\"path\":\"\",\"message\":\"not JSON: %s\"}}", document.error);
        }
        mon_json_free(&document);
        printf("%.*s\n", (int)answer.len, answer.data);
        fflush(stdout);
        mon_buf_free(&answer);
    }
    free(line);
    return 0;
}
