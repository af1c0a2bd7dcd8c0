#include <unroll/unroll.h>

int main() { return 0; }
