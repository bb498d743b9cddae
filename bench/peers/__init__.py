"""What a user could pick instead, measured in the same run on one core: TenSEAL's own API and HElayers."""
