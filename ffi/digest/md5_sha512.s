# MD5 and SHA-512 of the same bytes, in one pass over them (x86-64 with AVX-512 F, VL, BW, and BMI2).
#
# Each step of MD5 waits for the one before, so that MD5 alone leaves most of a core idle. The rounds of
# SHA-512 fill it: MD5 runs in vector registers, of whose lanes it uses the lowest, SHA-512 in general
# registers, and its message schedule, of four blocks at once, in vectors again. The processor overlaps
# the three by itself where their instructions lie close together: a `unit` has 8 steps of MD5, 5 rounds
# of SHA-512 and a word of the schedule for the four blocks that come next; 16 units are a block of
# SHA-512, which is two of MD5.
#
#   void imaged_md5_sha512_avx512(u32 md5[4], u64 sha512[8], const u8 *bytes, size_t groups,
#                                 const Tables *tables)
#
# takes `groups` of 512 bytes, at least one; `bytes` need no alignment. System V's calling convention.
#
# Registers in the loop:
#   rax rbx rcx rdx r8-r11  the state of SHA-512, whose roles move on by one register a round
#   r12 r13                 for the moment
#   r14 r15                 a ^ b of this round and of the one before, in turn
#   rdi                     this block's column of the rows of the schedule
#   rbp rsi                 where the next words of the schedule go, and the constants that they take
#   xmm0-xmm3               the state of MD5
#   xmm4-xmm7               a word of its state, message and constant added up ahead, for the next steps
#   xmm8 xmm15              for the moment, in a step; zmm14 zmm15 where a block begins
#   ymm9-ymm14              for the moment, in the schedule
#   ymm16-ymm31             16 words of the schedule, each of four blocks

# Offsets in `Tables` (both.rs).
    .set SINES, 0
    .set ORDER, 256
    .set ROOTS, 448
    .set SWAP, 1088

# The frame, from rsp on.
    .set SUMS, 0                # message and constant of each of the 64 steps, and room to read beyond
    .set KEPT, 272              # the state of MD5 before a block
    .set ROWS, 384              # the schedule, constants added: 80 rows of a word of four blocks, twice
    .set HALF, 80 * 32
    .set MD5, ROWS + 2 * HALF   # the arguments
    .set SHA512, MD5 + 8
    .set BYTES, MD5 + 16        # of the block under way
    .set GROUPS, MD5 + 24       # that are left
    .set TABLES, MD5 + 32
    .set READ, MD5 + 40         # the half of the rows that is read, and the one that is written
    .set WRITE, MD5 + 48
    .set CALLER, MD5 + 56       # rsp before the frame
    .set FRAME, MD5 + 64

# The functions of MD5's four rounds, as tables of d, c, b.
    .set F, 0xd8
    .set G, 0xac
    .set H, 0x96
    .set I, 0x63

# A step of MD5: a = b + ((a + f(b, c, d) + sum) <<< turn). `z` is a + sum, and `y` becomes that of three
# steps later, whose a is this step's b: added here, it does not compete with what the step waits for.
# Two shifts instead of a rotation: measured faster on Zen 4, where a rotation takes two cycles.
.macro step n f turn a b c d z y
    vmovdqa xmm8, \d
    vpternlogd xmm8, \c, \b, \f
    vpaddd \y, \b, dword ptr [rsp + SUMS + 4 * (\n) + 12]{1to4}
    vpaddd \a, \z, xmm8
    vpslld xmm15, \a, \turn
    vpsrld \a, \a, 32 - \turn
    vpaddd xmm15, xmm15, \b
    vpaddd \a, \a, xmm15
.endm

# The same, with the registers and the turn of step n of a round of MD5.
.macro step_of n f t0 t1 t2 t3
  .if (\n & 3) == 0
    step \n, \f, \t0, xmm0, xmm1, xmm2, xmm3, xmm4, xmm7
  .elseif (\n & 3) == 1
    step \n, \f, \t1, xmm3, xmm0, xmm1, xmm2, xmm5, xmm4
  .elseif (\n & 3) == 2
    step \n, \f, \t2, xmm2, xmm3, xmm0, xmm1, xmm6, xmm5
  .else
    step \n, \f, \t3, xmm1, xmm2, xmm3, xmm0, xmm7, xmm6
  .endif
.endm
.macro md5 n f
  .if \f == F
    step_of \n, F, 7, 12, 17, 22
  .elseif \f == G
    step_of \n, G, 5, 9, 14, 20
  .elseif \f == H
    step_of \n, H, 4, 11, 16, 23
  .else
    step_of \n, I, 6, 10, 15, 21
  .endif
.endm

# Before a block of MD5, the one `at` bytes into the block under way.
.macro md5_begin at
    vmovdqa [rsp + KEPT], xmm0
    vmovdqa [rsp + KEPT + 16], xmm1
    vmovdqa [rsp + KEPT + 32], xmm2
    vmovdqa [rsp + KEPT + 48], xmm3
    mov r12, [rsp + BYTES]
    mov r13, [rsp + TABLES]
    vmovdqu32 zmm15, [r12 + \at]
    vpaddd zmm14, zmm15, [r13 + SINES]
    vmovdqa32 [rsp + SUMS], zmm14
  .irp round, 1, 2, 3
    vmovdqa32 zmm14, [r13 + ORDER + 64 * (\round - 1)]
    vpermd zmm14, zmm14, zmm15
    vpaddd zmm14, zmm14, [r13 + SINES + 64 * \round]
    vmovdqa32 [rsp + SUMS + 64 * \round], zmm14
  .endr
    vpaddd xmm4, xmm0, dword ptr [rsp + SUMS]{1to4}
    vpaddd xmm5, xmm3, dword ptr [rsp + SUMS + 4]{1to4}
    vpaddd xmm6, xmm2, dword ptr [rsp + SUMS + 8]{1to4}
.endm

# After it.
.macro md5_end
    vpaddd xmm0, xmm0, [rsp + KEPT]
    vpaddd xmm1, xmm1, [rsp + KEPT + 16]
    vpaddd xmm2, xmm2, [rsp + KEPT + 32]
    vpaddd xmm3, xmm3, [rsp + KEPT + 48]
.endm

# A round of SHA-512. The majority of a, b and c is b ^ ((a ^ b) & (b ^ c)), whose last part is `y`, the
# a ^ b of the round before; this round's becomes `x`.
.macro round n a b c d e f g h x y
    add \h, [rdi + 32 * (\n)]
    rorx r12, \e, 41
    rorx r13, \e, 18
    xor r12, r13
    andn r13, \e, \g
    add \h, r13
    mov r13, \f
    and r13, \e
    add \h, r13
    rorx r13, \e, 14
    xor r12, r13
    mov \x, \a
    add \h, r12
    xor \x, \b
    add \d, \h
    rorx r12, \a, 39
    and \y, \x
    rorx r13, \a, 34
    xor \y, \b
    xor r12, r13
    add \h, \y
    rorx r13, \a, 28
    xor r12, r13
    add \h, r12
.endm

# A word of the schedule of the next four blocks: that of 16 words before, of 15, of 7 and of 2.
.macro word n w w1 w9 w14
    vprorq ymm9, \w1, 1
    vprorq ymm10, \w1, 8
    vpsrlq ymm11, \w1, 7
    vpternlogq ymm9, ymm10, ymm11, 0x96
    vpaddq \w, \w, \w9
    vprorq ymm12, \w14, 19
    vprorq ymm13, \w14, 61
    vpsrlq ymm14, \w14, 6
    vpternlogq ymm12, ymm13, ymm14, 0x96
    vpaddq \w, \w, ymm9
    vpaddq \w, \w, ymm12
    vpaddq ymm9, \w, qword ptr [rsi + 8 * \n]{1to4}
    vmovdqa [rbp + 32 * \n], ymm9
.endm

# 8 steps of MD5 among 5 rounds of SHA-512.
.macro unit n f1 a b c d e f g h x y
    round 5 * \n + 0, \a, \b, \c, \d, \e, \f, \g, \h, \x, \y
    md5 (8 * \n + 0) & 63, \f1
    md5 (8 * \n + 1) & 63, \f1
    round 5 * \n + 1, \h, \a, \b, \c, \d, \e, \f, \g, \y, \x
    md5 (8 * \n + 2) & 63, \f1
    round 5 * \n + 2, \g, \h, \a, \b, \c, \d, \e, \f, \x, \y
    md5 (8 * \n + 3) & 63, \f1
    md5 (8 * \n + 4) & 63, \f1
    round 5 * \n + 3, \f, \g, \h, \a, \b, \c, \d, \e, \y, \x
    md5 (8 * \n + 5) & 63, \f1
    round 5 * \n + 4, \e, \f, \g, \h, \a, \b, \c, \d, \x, \y
    md5 (8 * \n + 6) & 63, \f1
    md5 (8 * \n + 7) & 63, \f1
.endm

# Four words of each of four blocks, the ones `at` bytes into each: rows and columns exchanged.
.macro load4 at w0 w1 w2 w3
    vmovdqu ymm9, [r12 + \at]
    vmovdqu ymm10, [r12 + \at + 128]
    vmovdqu ymm11, [r12 + \at + 256]
    vmovdqu ymm12, [r12 + \at + 384]
    vpshufb ymm9, ymm9, ymm8
    vpshufb ymm10, ymm10, ymm8
    vpshufb ymm11, ymm11, ymm8
    vpshufb ymm12, ymm12, ymm8
    vpunpcklqdq ymm13, ymm9, ymm10
    vpunpckhqdq ymm14, ymm9, ymm10
    vpunpcklqdq ymm15, ymm11, ymm12
    vpunpckhqdq ymm9, ymm11, ymm12
    vshufi64x2 \w0, ymm13, ymm15, 0
    vshufi64x2 \w1, ymm14, ymm9, 0
    vshufi64x2 \w2, ymm13, ymm15, 3
    vshufi64x2 \w3, ymm14, ymm9, 3
    vpaddq ymm9, \w0, qword ptr [r13 + ROOTS + \at]{1to4}
    vpaddq ymm10, \w1, qword ptr [r13 + ROOTS + \at + 8]{1to4}
    vpaddq ymm11, \w2, qword ptr [r13 + ROOTS + \at + 16]{1to4}
    vpaddq ymm12, \w3, qword ptr [r13 + ROOTS + \at + 24]{1to4}
    vmovdqa [rbp + 4 * \at], ymm9
    vmovdqa [rbp + 4 * \at + 32], ymm10
    vmovdqa [rbp + 4 * \at + 64], ymm11
    vmovdqa [rbp + 4 * \at + 96], ymm12
.endm

# The first 16 words of the schedule of the group at r12, into the rows at rbp.
.macro load
    mov r13, [rsp + TABLES]
    vbroadcasti128 ymm8, [r13 + SWAP]
    load4 0, ymm16, ymm17, ymm18, ymm19
    load4 32, ymm20, ymm21, ymm22, ymm23
    load4 64, ymm24, ymm25, ymm26, ymm27
    load4 96, ymm28, ymm29, ymm30, ymm31
    lea rsi, [r13 + ROOTS + 128]
    add rbp, 16 * 32
.endm

# After 16 words of it.
.macro next_words
    add rsi, 16 * 8
    add rbp, 16 * 32
.endm

.macro sha512_end at r
    add \r, [r12 + \at]
    mov [r12 + \at], \r
.endm

    .text
    .p2align 6
    .globl imaged_md5_sha512_avx512
    .hidden imaged_md5_sha512_avx512
    .type imaged_md5_sha512_avx512, @function
imaged_md5_sha512_avx512:
    .cfi_startproc
    mov rax, rsp
    .cfi_def_cfa_register rax
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    .cfi_offset rbx, -16
    .cfi_offset rbp, -24
    .cfi_offset r12, -32
    .cfi_offset r13, -40
    .cfi_offset r14, -48
    .cfi_offset r15, -56
    sub rsp, FRAME
    and rsp, -64
    mov [rsp + CALLER], rax
    # The caller's frame is found by what lies at rsp + CALLER, 5560, plus the return address.
    .cfi_escape 0x0f, 0x06, 0x77, 0xb8, 0x2b, 0x06, 0x23, 0x08
    mov [rsp + MD5], rdi
    mov [rsp + SHA512], rsi
    mov [rsp + BYTES], rdx
    mov [rsp + GROUPS], rcx
    mov [rsp + TABLES], r8
    vmovd xmm0, dword ptr [rdi]
    vmovd xmm1, dword ptr [rdi + 4]
    vmovd xmm2, dword ptr [rdi + 8]
    vmovd xmm3, dword ptr [rdi + 12]

    # The whole schedule of the first group.
    mov r12, rdx
    lea rbp, [rsp + ROWS]
    load
    mov r12d, 4
2:
    word  0, ymm16, ymm17, ymm25, ymm30
    word  1, ymm17, ymm18, ymm26, ymm31
    word  2, ymm18, ymm19, ymm27, ymm16
    word  3, ymm19, ymm20, ymm28, ymm17
    word  4, ymm20, ymm21, ymm29, ymm18
    word  5, ymm21, ymm22, ymm30, ymm19
    word  6, ymm22, ymm23, ymm31, ymm20
    word  7, ymm23, ymm24, ymm16, ymm21
    word  8, ymm24, ymm25, ymm17, ymm22
    word  9, ymm25, ymm26, ymm18, ymm23
    word 10, ymm26, ymm27, ymm19, ymm24
    word 11, ymm27, ymm28, ymm20, ymm25
    word 12, ymm28, ymm29, ymm21, ymm26
    word 13, ymm29, ymm30, ymm22, ymm27
    word 14, ymm30, ymm31, ymm23, ymm28
    word 15, ymm31, ymm16, ymm24, ymm29
    next_words
    dec r12d
    jnz 2b

    mov r12, [rsp + SHA512]
    mov rax, [r12]
    mov rbx, [r12 + 8]
    mov rcx, [r12 + 16]
    mov rdx, [r12 + 24]
    mov r8, [r12 + 32]
    mov r9, [r12 + 40]
    mov r10, [r12 + 48]
    mov r11, [r12 + 56]
    lea rdi, [rsp + ROWS]
    lea rbp, [rsp + ROWS + HALF]
    mov [rsp + READ], rdi
    mov [rsp + WRITE], rbp

3:  # A group. The next one's schedule begins; after the last, this one's once more, for nothing.
    mov r12, [rsp + BYTES]
    lea r13, [r12 + 512]
    cmp qword ptr [rsp + GROUPS], 1
    cmova r12, r13
    load

    .p2align 5
4:  # A block of SHA-512.
    mov r15, rbx
    xor r15, rcx
    md5_begin 0
    unit  0, F, rax, rbx, rcx, rdx, r8 , r9 , r10, r11, r14, r15
    word  0, ymm16, ymm17, ymm25, ymm30
    unit  1, F, rdx, r8 , r9 , r10, r11, rax, rbx, rcx, r15, r14
    word  1, ymm17, ymm18, ymm26, ymm31
    unit  2, G, r10, r11, rax, rbx, rcx, rdx, r8 , r9 , r14, r15
    word  2, ymm18, ymm19, ymm27, ymm16
    unit  3, G, rbx, rcx, rdx, r8 , r9 , r10, r11, rax, r15, r14
    word  3, ymm19, ymm20, ymm28, ymm17
    unit  4, H, r8 , r9 , r10, r11, rax, rbx, rcx, rdx, r14, r15
    word  4, ymm20, ymm21, ymm29, ymm18
    unit  5, H, r11, rax, rbx, rcx, rdx, r8 , r9 , r10, r15, r14
    word  5, ymm21, ymm22, ymm30, ymm19
    unit  6, I, rcx, rdx, r8 , r9 , r10, r11, rax, rbx, r14, r15
    word  6, ymm22, ymm23, ymm31, ymm20
    unit  7, I, r9 , r10, r11, rax, rbx, rcx, rdx, r8 , r15, r14
    word  7, ymm23, ymm24, ymm16, ymm21
    md5_end
    md5_begin 64
    unit  8, F, rax, rbx, rcx, rdx, r8 , r9 , r10, r11, r14, r15
    word  8, ymm24, ymm25, ymm17, ymm22
    unit  9, F, rdx, r8 , r9 , r10, r11, rax, rbx, rcx, r15, r14
    word  9, ymm25, ymm26, ymm18, ymm23
    unit 10, G, r10, r11, rax, rbx, rcx, rdx, r8 , r9 , r14, r15
    word 10, ymm26, ymm27, ymm19, ymm24
    unit 11, G, rbx, rcx, rdx, r8 , r9 , r10, r11, rax, r15, r14
    word 11, ymm27, ymm28, ymm20, ymm25
    unit 12, H, r8 , r9 , r10, r11, rax, rbx, rcx, rdx, r14, r15
    word 12, ymm28, ymm29, ymm21, ymm26
    unit 13, H, r11, rax, rbx, rcx, rdx, r8 , r9 , r10, r15, r14
    word 13, ymm29, ymm30, ymm22, ymm27
    unit 14, I, rcx, rdx, r8 , r9 , r10, r11, rax, rbx, r14, r15
    word 14, ymm30, ymm31, ymm23, ymm28
    unit 15, I, r9 , r10, r11, rax, rbx, rcx, rdx, r8 , r15, r14
    word 15, ymm31, ymm16, ymm24, ymm29
    next_words
    md5_end
    mov r12, [rsp + SHA512]
    sha512_end 0, rax
    sha512_end 8, rbx
    sha512_end 16, rcx
    sha512_end 24, rdx
    sha512_end 32, r8
    sha512_end 40, r9
    sha512_end 48, r10
    sha512_end 56, r11
    add qword ptr [rsp + BYTES], 128
    add rdi, 8
    mov r12, [rsp + TABLES]
    add r12, ROOTS + 5 * 128
    cmp rsi, r12
    jne 4b

    mov rdi, [rsp + WRITE]
    mov rbp, [rsp + READ]
    mov [rsp + READ], rdi
    mov [rsp + WRITE], rbp
    dec qword ptr [rsp + GROUPS]
    jnz 3b

    mov r12, [rsp + MD5]
    vmovd dword ptr [r12], xmm0
    vmovd dword ptr [r12 + 4], xmm1
    vmovd dword ptr [r12 + 8], xmm2
    vmovd dword ptr [r12 + 12], xmm3
    vzeroupper
    mov rax, [rsp + CALLER]
    .cfi_def_cfa rax, 8
    mov r15, [rax - 48]
    mov r14, [rax - 40]
    mov r13, [rax - 32]
    mov r12, [rax - 24]
    mov rbp, [rax - 16]
    mov rbx, [rax - 8]
    mov rsp, rax
    .cfi_def_cfa_register rsp
    ret
    .cfi_endproc
    .size imaged_md5_sha512_avx512, . - imaged_md5_sha512_avx512
