from paddleseg_psp.commands.average_checkpoints import main

if __name__ == "__main__":
    main()
