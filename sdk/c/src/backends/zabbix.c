#include "../backend.h"
static void *o(const struct mon_settings *s, const struct mon_backend_settings *b) { (void)s; (void)b; return 0; }
static void sn(void *s, const struct mon_batch *b, double t, struct mon_answer *a) { (void)s; (void)b; (void)t; (void)a; }
static void c(void *s) { (void)s; }
const struct mon_backend_type mon_backend_zabbix = {"zabbix", o, sn, 0, c, c};
