// A sensor gateway in C++: threads read sensors and report what they see; an exception ends its run as failed.
//
//   c++ -std=c++17 sensor_gateway.cpp $(pkg-config --cflags --libs monitoring) -lpthread -o sensor_gateway
//   MONITORING_SDK__APP__NAME=sensor-gateway MONITORING_SDK__APP__SITE_ID=fab1 ./sensor_gateway 4 100

#include <monitoring.hpp>

#include <cstdlib>
#include <iostream>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

static void read_sensor(mon_context *shift, int number, int samples) {
    mon_context_enter(shift); // what this thread emits belongs to the run that main() began
    const std::string sensor = "S" + std::to_string(number);
    try {
        monitoring::Context run("read-sensor", {{"sensor", sensor}});
        std::mt19937 noise(static_cast<unsigned>(number));
        std::normal_distribution<double> particles(120, 15);
        for (int sample = 0; sample < samples; sample++) {
            const double count = particles(noise);
            monitoring::Event(MON_METRIC, "particles").entity("sensor", sensor).metric("count", count).attribute("sample", sample).emit();
            if (number == 3 && sample == samples / 2) {
                throw std::runtime_error("no answer from " + sensor);
            }
        }
    } catch (const std::exception &error) {
        std::cerr << error.what() << "\n";
    }
    mon_context_leave(shift);
}

int main(int argc, char **argv) {
    const int sensors = argc > 1 ? std::atoi(argv[1]) : 4;
    const int samples = argc > 2 ? std::atoi(argv[2]) : 100;
    try {
        monitoring::initialize();
    } catch (const monitoring::Error &error) {
        std::cerr << error.what() << "\n";
        return 2;
    }
    {
        monitoring::Context shift("shift", {{"operator", "night"}});
        std::vector<std::thread> threads;
        for (int number = 1; number <= sensors; number++) {
            threads.emplace_back(read_sensor, mon_context_current(), number, samples);
        }
        for (auto &thread : threads) {
            thread.join();
        }
    }
    mon_close();
    mon_counts counts;
    mon_stats(&counts);
    std::cout << counts.emitted << " events, " << counts.dropped << " dropped\n";
    return 0;
}
