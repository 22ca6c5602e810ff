// The C++ header through the shared library: what an exception does to a run, and what misuse does.
#include "monitoring.hpp"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>

static int failures = 0;

static void check(bool holds, const char *what) {
    if (!holds) {
        failures++;
        std::cout << "FAIL " << what << "\n";
    }
}

static void fails_inside() {
    monitoring::Context run("etch", {{"lot", "L1"}, {"tool", "T1"}});
    run.progress(0.5, "half");
    throw std::runtime_error("the arm did not answer");
}

int main() {
    char folder[] = "/tmp/mon-cpp-XXXXXX";
    if (mkdtemp(folder) == nullptr) {
        return 2;
    }
    mon_set_logger([](mon_severity, const char *, void *) {}, nullptr);
    monitoring::initialize(std::string(R"({"sdk":{"app":{"name":"cpp","site_id":"fab1"},"sidecar":{"url":"http://127.0.0.1:1","retries":0,"spool_dir":")") + folder + "\"}}}");
    try {
        fails_inside();
        check(false, "an exception is swallowed");
    } catch (const std::runtime_error &) {
    }
    {
        monitoring::Context outer("lot");
        try {
            monitoring::Context inner("wafer");
            try {
                throw std::logic_error("no chuck");
            } catch (const std::exception &error) {
                inner.fail(error, "std::logic_error");
            }
        } catch (...) {
            check(false, "what is caught inside leaves");
        }
        check(monitoring::Event(MON_METRIC, "chuck").metric("t", 21.5).attribute("n", 1).attribute("s", "x").emit().size() == 36, "an event has no id");
    }
    try {
        monitoring::Event(MON_LOG, "x").entity("lot", "").emit();
        check(false, "misuse goes unnoticed");
    } catch (const monitoring::Error &error) {
        check(error.path() == "entities.lot", "misuse has another path");
    }
    mon_close();
    std::stringstream all;
    for (const auto &file : std::filesystem::directory_iterator(folder)) {
        all << std::ifstream(file.path()).rdbuf();
    }
    const std::string text = all.str();
    check(text.find(R"("kind":"error","name":"etch","status":"failed")") != std::string::npos, "an exception ends a run well");
    check(text.find(R"("kind":"finish","name":"lot","status":"ok")") != std::string::npos, "a run that ended well did not");
    check(text.find(R"("type":"std::logic_error","message":"no chuck")") != std::string::npos, "an exception has lost its type");
    check(text.find("\"parent_run_id\"") != std::string::npos, "runs do not nest");
    std::filesystem::remove_all(folder);
    std::cout << (failures == 0 ? "ok\n" : "failed\n");
    return failures == 0 ? 0 : 1;
}
