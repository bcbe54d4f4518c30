//! Pure building blocks: typed ids, money, allocation, unit slots, clock, validation.
