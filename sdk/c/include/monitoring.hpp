/**
 * @file monitoring.hpp
 * @brief C++ on top of monitoring.h: events and runs that clean up after themselves. Header only; C++17.
 *
 * @code
 * monitoring::Context run("etch", {{"lot", "L2301"}, {"tool", "ETCH-07"}});   // failed when an exception leaves the block
 * monitoring::Event(MON_METRIC, "chuck").metric("temperature", 21.5).emit();
 * @endcode
 */
#ifndef MONITORING_HPP
#define MONITORING_HPP

#include <exception>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <utility>

#include "monitoring.h"

/** The C++ face of the SDK. */
namespace monitoring {

/** Misuse: what a call of the C interface refused. */
class Error : public std::runtime_error {
public:
    /** From the thread's last error. */
    explicit Error(mon_status status) : std::runtime_error(mon_error_message()), status_(status), path_(mon_error_path()) {}
    /** Which kind of misuse. */
    mon_status status() const noexcept { return status_; }
    /** The dotted path of the mistake. */
    const std::string &path() const noexcept { return path_; }

private:
    mon_status status_;
    std::string path_;
};

/** Throws Error for what is neither MON_OK nor MON_TIMEOUT. */
inline mon_status check(mon_status status) {
    if (status != MON_OK && status != MON_TIMEOUT) {
        throw Error(status);
    }
    return status;
}

/** Reads the configuration and starts; `document` (JSON) lies above file and environment. Throws Error. */
inline void initialize(const std::string &document = "") {
    mon_config *config = mon_config_new();
    mon_status status = document.empty() ? MON_OK : mon_config_json(config, document.data(), document.size());
    if (status == MON_OK) {
        status = mon_initialize(config);
    }
    mon_config_free(config);
    check(status);
}

/** An event that is put together and emitted once. */
class Event {
public:
    /** As mon_event_new(). */
    Event(mon_kind kind, const std::string &name) : event_(mon_event_new(kind, name.c_str())) {}
    /** The other is empty then. */
    Event(Event &&other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
    Event(const Event &) = delete;
    Event &operator=(const Event &) = delete;
    Event &operator=(Event &&) = delete;
    ~Event() { mon_event_free(event_); }

    /** As mon_event_message(). */
    Event &message(const std::string &text) { return after(mon_event_message_n(event_, text.data(), text.size())); }
    /** As mon_event_severity(). */
    Event &severity(mon_severity severity) { return after(mon_event_severity(event_, severity)); }
    /** As mon_event_entity(). */
    Event &entity(const std::string &key, const std::string &value) { return after(mon_event_entity(event_, key.c_str(), value.c_str())); }
    /** As mon_event_metric(). */
    Event &metric(const std::string &key, double value) { return after(mon_event_metric(event_, key.c_str(), value)); }
    /** As mon_event_state(). */
    Event &state(const std::string &from, const std::string &to) { return after(mon_event_state(event_, from.c_str(), to.c_str())); }
    /** As mon_event_text(). */
    Event &attribute(const std::string &key, const std::string &value) {
        return after(mon_event_text_n(event_, key.c_str(), value.data(), value.size()));
    }
    /** As mon_event_text(). */
    Event &attribute(const std::string &key, const char *value) { return after(mon_event_text(event_, key.c_str(), value)); }
    /** As mon_event_number(). */
    Event &attribute(const std::string &key, double value) { return after(mon_event_number(event_, key.c_str(), value)); }
    /** As mon_event_integer(). */
    Event &attribute(const std::string &key, int value) { return after(mon_event_integer(event_, key.c_str(), value)); }
    /** As mon_event_boolean(). */
    Event &attribute(const std::string &key, bool value) { return after(mon_event_boolean(event_, key.c_str(), value)); }
    /** Any JSON. */
    Event &json(const std::string &key, const std::string &text) { return after(mon_event_json(event_, key.c_str(), text.data(), text.size())); }

    /** Reports it, and gives its id. Throws Error for the first mistake in it. */
    std::string emit() {
        char id[MON_ID_SIZE];
        check(mon_emit_id(std::exchange(event_, nullptr), id));
        return id;
    }

private:
    Event &after(mon_status) noexcept { return *this; } /* emit() tells of the first mistake */

    mon_event *event_;
};

/** A run that lasts as long as the object: ended well, or failed when an exception leaves its block. */
class Context {
public:
    /** Throws Error on misuse. */
    explicit Context(const std::string &name, std::initializer_list<std::pair<const char *, std::string>> metadata = {})
        : exceptions_(std::uncaught_exceptions()) {
        mon_metadata *pairs = mon_metadata_new();
        for (const auto &pair : metadata) {
            mon_metadata_text(pairs, pair.first, pair.second.c_str());
        }
        context_ = mon_context_begin(name.c_str(), pairs);
        mon_metadata_free(pairs);
        if (context_ == nullptr) {
            throw Error(mon_error_status());
        }
    }
    Context(const Context &) = delete;
    Context &operator=(const Context &) = delete;
    ~Context() {
        if (context_ == nullptr) {
            return;
        }
        if (std::uncaught_exceptions() > exceptions_) {
            mon_context_fail(context_, "exception", "an exception left the block");
        } else {
            mon_context_end_ok(context_);
        }
    }

    /** Reports how far it is, from 0 to 1. */
    void progress(double fraction, const std::string &message = "") {
        check(mon_context_progress(context_, fraction, message.empty() ? nullptr : message.c_str(), nullptr));
    }
    /** Ends it as failed by this exception, whose type and message a destructor can't know: to be called in the handler. */
    void fail(const std::exception &error, const std::string &type = "std::exception") {
        mon_context_fail(std::exchange(context_, nullptr), type.c_str(), error.what());
    }
    /** Its run id. */
    std::string run_id() const { return mon_context_run_id(context_); }

private:
    mon_context *context_ = nullptr;
    int exceptions_;
};

} // namespace monitoring

#endif
