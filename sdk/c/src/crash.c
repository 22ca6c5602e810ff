/* Fatal signals. */
#include "client.h"

void mon_crash_install(void) {
}

void mon_crash_uninstall(void) {
}
