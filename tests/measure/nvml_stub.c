// A libnvidia-ml.so.1 of one card whose behaviour STUB_NVML names; the rest is a healthy card that this process is on.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID = 2, UNSUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6, TOO_SMALL = 7, NO_DRIVER = 9, LOST = 15,
       MISMATCH = 18 };
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu, compute; } Process;
static unsigned long long asked;  // how often memory was asked for

static int is(const char* name) {
    const char* now = getenv("STUB_NVML");
    return now && strcmp(now, name) == 0;
}
static int mig(const char* device) { return device[0] == 'M'; }
static char card[] = "GPU-1", slice[] = "MIG-1";

int nvmlInitWithFlags(unsigned flags) { return is("no device") ? NO_DRIVER : is("updated driver") ? MISMATCH : OK; }
int nvmlShutdown(void) { return OK; }
const char* nvmlErrorString(int code) { return "stub error"; }
int nvmlDeviceGetHandleByUUID(const char* uuid, char** device) {
    if (is("no permission to open")) return NO_PERMISSION;
    if (strcmp(uuid, card) && strcmp(uuid, slice)) return NOT_FOUND;
    *device = mig(uuid) ? slice : card;
    return OK;
}
int nvmlDeviceGetName(char* device, char* name, unsigned size) { return snprintf(name, size, "Stub H0"), OK; }
int nvmlSystemGetDriverVersion(char* text, unsigned size) { return snprintf(text, size, "600.1"), OK; }
int nvmlDeviceGetMigMode(char* device, unsigned* now, unsigned* later) { return *now = *later = mig(device), OK; }
int nvmlDeviceGetMemoryInfo(char* device, Memory* memory) {
    asked++;
    if (is("lost") && asked > 3) return LOST;
    memory->total = 80ull << 30;
    memory->used = (1ull << 30) + (asked > 1 ? 5ull << 30 : 0) + (asked == 4 ? 2ull << 30 : 0);  // a short peak
    memory->free = memory->total - memory->used;
    return OK;
}
#ifndef OLD_DRIVER
int nvmlDeviceGetComputeRunningProcesses_v3(char* device, unsigned* count, Process* processes) {
    if (is("no permission")) return NO_PERMISSION;
    unsigned many = is("shared") ? 2 : 1;
    if (*count < many || !processes) return *count = many, TOO_SMALL;
    processes[0] = (Process){is("wrong process id") ? 999999 : (unsigned)getpid(), asked == 4 ? 7ull << 30 : 5ull << 30, 0, 0};
    if (is("no memory of processes")) processes[0].used = ~0ull;
    if (many > 1) processes[1] = (Process){4242, 1ull << 30, 0, 0};
    return *count = many, OK;
}
#endif
int nvmlDeviceGetTotalEnergyConsumption(char* device, unsigned long long* mj) {
    static unsigned long long counter = 1000000;
    if (mig(device)) return UNSUPPORTED;
    if (is("no permission")) return NO_PERMISSION;
    if (is("counter wraps") && counter == 1000000) counter = ~0ull - 20000;  // 20 J before the end
    if (is("counter restarts") && counter > 1000000) return *mj = 5, OK;
    *mj = counter;
    counter += 50000;  // 50 J from one question to the next
    return OK;
}
int nvmlDeviceGetClockInfo(char* device, int kind, unsigned* mhz) { return *mhz = 1980, mig(device) ? UNSUPPORTED : OK; }
int nvmlDeviceGetTemperature(char* device, int kind, unsigned* degrees) { return *degrees = 61, mig(device) ? UNSUPPORTED : OK; }
int nvmlDeviceGetCurrentClocksEventReasons(char* device, unsigned long long* reasons) {
    *reasons = is("hot") ? 0x40 : 0x4;
    return mig(device) ? UNSUPPORTED : OK;
}
