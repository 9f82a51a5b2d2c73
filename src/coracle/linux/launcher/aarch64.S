// The walker for aarch64: performs a table of system calls, one entry after the other.
//
//   aarch64-linux-gnu-as -o aarch64.o aarch64.S && aarch64-linux-gnu-objcopy -O binary -j .text aarch64.o aarch64.bin
//
// gives the bytes in code.py; tests/unit/test_launcher_code.py does it and compares.  The file is
// documentation and never used at run time.  It follows x86_64.S line by line; read that first.
//
//   x19  current entry          x21  -> saved result, 8 bytes (a child's pid, a descriptor)
//   w24  its flags              x22  -> scratch, 16 bytes (byte read, wait status, record)
//   w20  report descriptor      x23  error to report when every candidate failed
//
// The kernel changes x0 in a system call and nothing else.

    .set DATA_HIGH, 0x1001              // image.py: address of the data segment, 0x10011000
    .set DATA_LOW, 0x1000
    .set SIZE, 72                       // table.py: bytes in an entry
    .set RETRY, 0                       // table.py: numbers of the flag bits
    .set TOLERANT, 1
    .set EXPECT, 2
    .set JUMP, 3
    .set SAVE, 4
    .set SAVED_0, 5
    .set SCRATCH_1, 6
    .set SAVED_AT_2, 7
    .set REMEMBER, 8
    .set FAIL, 9
    .set LOOP, 10
    .set GROUP, 11
    .set WARN, 12
    .set TELL, 13
    .set RECORD_LOW, 0x6c63             // "clr", then the kind
    .set RECORD_HIGH, 0x0072
    .set EINTR, 4
    .set EACCES, 13
    .set SIGCHLD, 17
    .set WNOHANG, 1
    .set NR_write, 64
    .set NR_exit_group, 94
    .set NR_kill, 129
    .set NR_wait4, 260

    .text
    movz    x19, #DATA_HIGH, lsl #16
    movk    x19, #DATA_LOW
    ldr     w20, [x19, #8]              // report descriptor, or -1
    ldr     x19, [x19]                  // address of the first entry
    mov     x21, sp
    add     x22, x21, #8
    mov     x23, xzr
    str     xzr, [x21]

entry:
    ldrh    w24, [x19, #2]
    ldrh    w8, [x19]
    ldp     x0, x1, [x19, #8]
    ldp     x2, x3, [x19, #24]
    ldp     x4, x5, [x19, #40]
    tbz     w24, #SAVED_0, 1f
    ldr     x0, [x21]
1:  tbz     w24, #SCRATCH_1, 2f
    mov     x1, x22
2:  tbz     w24, #SAVED_AT_2, 3f
    mov     x2, x21
3:  tbnz    w24, #FAIL, remembered
    svc     #0
    cmn     x0, #4095
    b.hs    error

    tbz     w24, #SAVE, 4f
    str     x0, [x21]
4:  tbnz    w24, #LOOP, signal
    mov     w9, #'V'
    tbnz    w24, #TELL, report
    ldr     x10, [x19, #56]
    tbz     w24, #EXPECT, 5f
    cmp     x0, x10
    b.ne    failure
5:  tbz     w24, #JUMP, next            // when the result is not 0, over as many bytes as said
    cbz     w0, next
    add     x19, x19, x10
next:
    add     x19, x19, #SIZE
    b       entry

error:
    cmn     w0, #EINTR
    b.ne    6f
    tbnz    w24, #RETRY, entry
6:  tbnz    w24, #TOLERANT, tolerated
    add     x10, x19, #64               // eight errnos; an unused one, 0, equals no error
    add     x11, x10, #8
7:  ldrb    w12, [x10], #1
    cmn     w12, w0
    b.eq    tolerated
    cmp     x10, x11
    b.lo    7b
failure:
    mov     w9, #'F'
    b       report
remembered:
    mov     x0, x23
    b       failure

tolerated:
    tbz     w24, #REMEMBER, 8f          // execvp(3): EACCES outlives what the later candidates said
    cmn     w23, #EACCES
    csel    x23, x23, x0, eq
8:  tbz     w24, #WARN, next
    mov     w9, #'W'

report:                                 // w9 kind, w0 result
    movz    w10, #RECORD_LOW
    movk    w10, #RECORD_HIGH, lsl #16
    orr     w10, w10, w9, lsl #24
    ldr     w11, [x19, #4]              // step
    ldrh    w12, [x19]
    stp     w10, w11, [x22]
    stp     w0, w12, [x22, #8]
    mov     w0, w20
    mov     x1, x22
    mov     x2, #16
    mov     x8, #NR_write
    svc     #0
    cmp     w9, #'F'
    b.ne    next
    mov     x0, #255
exit:
    mov     x8, #NR_exit_group
    svc     #0
    udf     #0                          // a seccomp filter forbade even that

signal:                                 // w0: one came; what follows never leaves this entry
    cmp     w0, #SIGCHLD
    b.eq    reap
    mov     w1, w0
    ldr     w0, [x21]
    cbz     w0, exit                    // no child: the pause process, asked to end
    tbz     w24, #GROUP, 9f
    neg     w0, w0
9:  mov     x8, #NR_kill
    svc     #0
    b       entry
reap:
    mov     x0, #-1
    mov     x1, x22
    mov     x2, #WNOHANG
    mov     x3, xzr
    mov     x8, #NR_wait4
    svc     #0
    cmp     w0, #0
    b.le    entry
    ldr     w10, [x21]
    cmp     w0, w10
    b.ne    reap
    ldr     w10, [x22]                  // the child's: pass its end on as a shell would
    ubfx    w0, w10, #8, #8
    ands    w10, w10, #0x7f
    b.eq    exit
    add     w0, w10, #128
    b       exit
