/* Fields that are objects: entities, metrics, and those with fixed parts. */
#include "fields.h"
#include <stdio.h>
#include <string.h>

static bool key_of(Writer *writer, const char *path, SEXP name, const char **data, size_t *length)
{
    *data = utf8_of(name, length, writer->mended);
    if (name == NA_STRING || *length == 0 || (*length > MAX_TEXT && utf8_characters(*data, *length) > MAX_TEXT))
        return fail(writer, path, "expected keys of 1 to 256 characters%s", "");
    return true;
}

bool table_of(Writer *writer, const char *path, SEXP value, Members *members)
{
    if (!members_of(value, members) || (TYPEOF(value) != VECSXP && members->names == R_NilValue))
        return fail(writer, path, "expected object, got %s", type_name(value));
    return are_distinct(members, writer, path);
}

/* Each entity with a comma after it. */
bool write_entities(Writer *writer, const Members *members)
{
    char path[PATH_BYTES];
    for (R_xlen_t i = 0; i < members->count; i++) {
        const char *data;
        size_t length;
        if (!key_of(writer, "entities", STRING_ELT(members->names, i), &data, &length))
            return false;
        json_string(writer->out, data, length);
        text_add(writer->out, ":", 1);
        below(path, "entities", STRING_ELT(members->names, i));
        SEXP value = PROTECT(member(members, i));
        bool taken = write_short(writer, path, value, MAX_TEXT);
        UNPROTECT(1);
        if (!taken)
            return false;
        text_add(writer->out, ",", 1);
    }
    return true;
}

/* The metrics that are numbers of JSON; the names of the others go to `dropped`, as the inside of an array. */
bool write_metrics(Writer *writer, SEXP value, Text *dropped)
{
    char path[PATH_BYTES];
    Members members;
    if (!table_of(writer, "metrics", value, &members))
        return false;
    text_add(writer->out, "{", 1);
    bool any = false;
    for (R_xlen_t i = 0; i < members.count; i++) {
        SEXP name = STRING_ELT(members.names, i);
        const char *data;
        size_t length;
        double number;
        int64_t exact = 0;
        bool is_exact;
        if (!key_of(writer, "metrics", name, &data, &length))
            return false;
        below(path, "metrics", name);
        SEXP entry = PROTECT(member(&members, i));
        bool taken = number_of(writer, path, entry, &number, &exact, &is_exact);
        UNPROTECT(1);
        if (!taken)
            return false;
        Text *to = writer->out;
        if (!R_FINITE(number)) {
            to = dropped;
            if (to->length)
                text_add(to, ",", 1);
        } else if (any) {
            text_add(to, ",", 1);
        }
        json_string(to, data, length);
        if (to == dropped)
            continue;
        any = true;
        text_add(to, ":", 1);
        write_number(to, number, exact, is_exact);
    }
    text_add(writer->out, "}", 1);
    return true;
}

bool write_struct(Writer *writer, const char *field, SEXP value, const Part *parts)
{
    char path[PATH_BYTES];
    Members members;
    if (!table_of(writer, field, value, &members))
        return false;
    for (const Part *part = parts; part->name != NULL; part++) {
        bool there = !part->required;
        for (R_xlen_t i = 0; i < members.count && !there; i++)
            there = strcmp(CHAR(STRING_ELT(members.names, i)), part->name) == 0;
        if (!there) {
            snprintf(path, sizeof path, "%s.%s", field, part->name);
            return fail(writer, path, "required field is missing%s", "");
        }
    }
    text_add(writer->out, "{", 1);
    for (R_xlen_t i = 0; i < members.count; i++) {
        SEXP name = STRING_ELT(members.names, i);
        const Part *part = parts;
        while (part->name != NULL && strcmp(part->name, CHAR(name)) != 0)
            part++;
        below(path, field, name);
        if (part->name == NULL)
            return fail(writer, path, "unknown field; put data of your own under 'attributes'%s", "");
        if (i > 0)
            text_add(writer->out, ",", 1);
        json_string(writer->out, part->name, strlen(part->name));
        text_add(writer->out, ":", 1);
        SEXP entry = PROTECT(member(&members, i));
        bool taken = part->longest ? write_short(writer, path, entry, part->longest) : write_text(writer, path, entry);
        UNPROTECT(1);
        if (!taken)
            return false;
    }
    text_add(writer->out, "}", 1);
    return true;
}
